// The table of a batch. The server sends all rows as data; new and changed ones become elements through `textContent`,
// so that a file name is never read as HTML. Runs once, as `js_on_load` of its gr.HTML.
const box = element.querySelector(".batch-table");
let table = null, shown = [], run = null, sorting = null;

function make(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
}

function heading(column, index) {
    const button = make("button", { type: "button" });
    if (column.group) button.append(make("span", { className: "method" }, `${column.group} `));
    button.append(column.name, make("span", { className: "arrow", ariaHidden: "true" }));
    button.addEventListener("click", () => {
        const ascending = sorting.column === index ? !sorting.ascending : true;
        sorting = { column: index, ascending };
        shown.forEach((entry) => { entry.keys = entry.row.keys; });
        arrange();
    });
    return make("th", { scope: "col", className: column.numeric ? "number" : "" }, button);
}

function begin(value) {
    const { caption, ...words } = value.words, way = matchMedia("(pointer: coarse)").matches ? "touch" : "keys";
    table = make("table", {}, make("caption", {}, caption));
    table.append(make("thead", {}, make("tr", {}, ...value.columns.map(heading))), make("tbody"));
    table.addEventListener("click", click);
    table.addEventListener("keydown", press);
    table.addEventListener("focusin", ({ target }) => enter(entryOf(target)));
    const help = make("p", { className: "note" }, [words[`${way}_own`], words[way]].filter(Boolean).join(" "));
    const region = make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption }, table);
    box.replaceChildren(make("div", { className: "corrections" }), help, region);
    box.firstChild.setAttribute("role", "status"); // screen readers only announce changes of an existing element
    shown = [];
    run = value.run;
    sorting = { column: value.sorted, ascending: true };
}

// ---------------------------------------------------------------- rows

function pictureCell(row) {
    const shown = row.thumbnail
        ? make("img", { src: row.thumbnail, alt: row.alt })
        : make("span", { className: "nothing", ariaHidden: "true" }, "!");
    const label = `${row.file}: ${props.value.words.open}`;
    const words = make("div", {}, make("button", { type: "button", className: "file", ariaLabel: label }, row.file));
    if (row.note) words.append(make("span", { className: "doubt" }, row.note));
    const picture = make("div", { className: "picture" }, shown, words);
    return make("th", { scope: "row" }, picture);
}

function corrections(row) {
    const { words, can_correct } = props.value;
    const mark = row.correction ? [make("span", {}, row.correction)] : [];
    if (!can_correct || !row.thumbnail || !row.is_free) return mark.length ? make("span", { className: "correction" }, ...mark) : "";
    const buttons = [["good", "✓", "G"], ["defective", "✕", "B"]].map(([name, sign, key]) => {
        const label = { ariaKeyShortcuts: key, ariaLabel: `${row.file}: ${words[name]}` };
        const button = make("button", { type: "button", ...label }, `${sign} ${words[name]}`);
        button.dataset.correct = name;
        return button;
    });
    return make("span", { className: "correction" }, ...mark, ...buttons);
}

function fill(entry) {
    const { row, line } = entry, held = line.contains(document.activeElement);
    const cells = row.cells.map(({ text, sign, tone, span }) => {
        const cell = make("td", { className: tone ?? "", colSpan: span ?? 1 });
        if (sign) cell.append(make("span", { className: "sign", ariaHidden: "true" }, sign));
        cell.append(text);
        return cell;
    });
    cells[0].append(corrections(row));
    line.replaceChildren(pictureCell(row), ...cells);
    line.removeAttribute("aria-busy");
    reach(line, line.tabIndex === 0);
    if (held) line.focus({ preventScroll: true });
}

function newEntry(row) {
    const entry = { row, keys: row.keys, line: make("tr", { tabIndex: -1 }) };
    fill(entry);
    return entry;
}

function entryOf(target) {
    const line = target.closest("tbody tr");
    return shown.find((entry) => entry.line === line);
}

// ---------------------------------------------------------------- what a person does

function reach(line, isReached) { // by the tab key: one row, and its buttons
    [line, ...line.querySelectorAll("button")].forEach((part) => { part.tabIndex = isReached ? 0 : -1; });
}

function enter(entry) {
    if (!entry) return;
    shown.forEach(({ line }) => line.tabIndex === 0 && line !== entry.line && reach(line, false));
    reach(entry.line, true);
}

function open({ row }) {
    trigger("select", { run, number: row.number });
}

function correct({ row, line }, good) {
    const place = line.querySelector(".correction");
    if (!place || !row.is_free || line.ariaBusy) return;
    if (place.contains(document.activeElement)) line.focus({ preventScroll: true });
    line.ariaBusy = "true";
    place.replaceChildren(props.value.words.waiting);
    trigger("apply", { run, number: row.number, good });
}

function click({ target }) {
    const entry = entryOf(target), button = target.closest("[data-correct]");
    if (!entry) return;
    if (button) correct(entry, button.dataset.correct === "good");
    else if (!getSelection().toString() && !target.closest(".correction")) open(entry);
}

function press(event) {
    const entry = entryOf(event.target), key = event.key.toLowerCase();
    if (!entry || event.ctrlKey || event.altKey || event.metaKey) return;
    if (key === "enter" && event.target === entry.line) open(entry);
    else if (key === "g" || key === "b") correct(entry, key === "g");
    else if (key === "arrowdown") entry.line.nextElementSibling?.focus();
    else if (key === "arrowup") entry.line.previousElementSibling?.focus();
    else return;
    event.preventDefault();
}

function tell({ lines, failed, can_undo }) {
    const place = box.firstChild, words = lines.join("\n") + can_undo, before = table.getBoundingClientRect().top;
    if (place.dataset.words === words) return;
    place.dataset.words = words;
    const card = make("div", { className: failed ? "card failed" : "card" }, ...lines.map((line) => make("p", {}, line)));
    const undo = make("button", { type: "button" }, props.value.words.undo);
    undo.addEventListener("click", () => {
        if (document.activeElement === undo) table.querySelector("tr[tabindex='0']")?.focus({ preventScroll: true });
        undo.disabled = true;
        trigger("undo", { run });
    });
    if (can_undo) card.firstChild.append(" ", undo);
    place.replaceChildren(...(lines.length ? [card] : []));
    scrollBy(0, table.getBoundingClientRect().top - before); // the rows stay where the person looks
}

// ---------------------------------------------------------------- the order

function compare(one, other) {
    const [a, b] = [one, other].map(({ keys }) => keys[sorting.column]);
    if ((a === null) !== (b === null)) return a === null ? 1 : -1; // rows without a value stay at the end
    const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    return (sorting.ascending ? order : -order) || one.row.number - other.row.number;
}

function arrange() {
    const focused = document.activeElement;
    table.tBodies[0].append(...shown.toSorted(compare).map(({ line }) => line));
    [...table.tHead.rows[0].cells].forEach((cell, index) => {
        const here = index === sorting.column;
        here ? cell.setAttribute("aria-sort", sorting.ascending ? "ascending" : "descending") : cell.removeAttribute("aria-sort");
        cell.querySelector(".arrow").textContent = here ? (sorting.ascending ? "▲" : "▼") : "";
    });
    if (box.contains(focused)) focused.focus({ preventScroll: true });
    const first = table.tBodies[0].rows[0];
    if (!shown.some(({ line }) => line.tabIndex === 0)) reach(first, true);
}

function show() {
    const value = props.value;
    if (!value?.rows?.length) {
        box.replaceChildren();
        table = run = null;
        return;
    }
    if (run !== value.run) begin(value);
    shown.forEach((entry, index) => {
        const row = value.rows[index];
        if (row.revision === entry.row.revision) return;
        entry.row = row; // its place in the order stays until a heading is clicked, so that nobody loses it
        fill(entry);
    });
    const added = value.rows.slice(shown.length).map(newEntry);
    shown.push(...added);
    if (added.length) arrange();
    tell(value.note);
}

box.addEventListener("refused", () => { // the server did not take the last key or click
    shown.filter(({ line }) => line.ariaBusy).forEach(fill);
    box.querySelectorAll(".corrections button").forEach((undo) => { undo.disabled = false; });
});
watch("value", show);
show();
