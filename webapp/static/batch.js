// The table of a batch. The server sends only new rows, as data. They become elements through `textContent`, so that a
// file name is never read as HTML. Runs once, as `js_on_load` of its gr.HTML.
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
        arrange();
    });
    return make("th", { scope: "col", className: column.numeric ? "number" : "" }, button);
}

function begin(value) {
    table = make("table", {}, make("caption", {}, value.caption));
    table.append(make("thead", {}, make("tr", {}, ...value.columns.map(heading))), make("tbody"));
    const region = make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: value.caption }, table);
    box.replaceChildren(region);
    shown = [];
    run = value.run;
    sorting = { column: value.sorted, ascending: true };
}

function pictureCell(row) {
    const shown = row.thumbnail
        ? make("img", { src: row.thumbnail, alt: row.alt })
        : make("span", { className: "nothing", ariaHidden: "true" }, "!");
    const words = make("div", {}, make("span", { className: "file" }, row.file));
    if (row.note) words.append(make("span", { className: "doubt" }, row.note));
    const picture = make("div", { className: "picture" }, shown, words);
    return make("th", { scope: "row" }, picture);
}

function bodyRow(row) {
    const cells = row.cells.map(({ text, sign, tone, span }) => {
        const cell = make("td", { className: tone ?? "", colSpan: span ?? 1 });
        if (sign) cell.append(make("span", { className: "sign", ariaHidden: "true" }, sign));
        cell.append(text);
        return cell;
    });
    return make("tr", {}, pictureCell(row), ...cells);
}

function compare(one, other) {
    const [a, b] = [one, other].map(({ row }) => row.keys[sorting.column]);
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
    if (box.contains(focused)) focused.focus();
}

function show() {
    const value = props.value;
    if (!value?.rows?.length) {
        box.replaceChildren();
        table = run = null;
        return;
    }
    if (run !== value.run) begin(value);
    shown.push(...value.rows.slice(shown.length).map((row) => ({ row, line: bodyRow(row) })));
    arrange();
}

watch("value", show);
show();
