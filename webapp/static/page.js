// Additions to Gradio for the whole page. webapp/page.py inserts WORDS: each text by language.
() => {
    // Select the chosen category on focus, so that typing replaces it and searches the list.
    for (const event of ["focusin", "click"]) {
        document.addEventListener(event, ({ target }) => {
            if (target.matches("input[role=combobox]")) requestAnimationFrame(() => target.select());
        });
    }

    // Gradio drops the folders of files that come with a chosen folder.
    document.addEventListener("change", ({ target }) => {
        if (target.webkitdirectory) window.chosenPaths = Array.from(target.files, (file) => file.webkitRelativePath);
    }, true); // before Gradio, which empties the list

    // What a visitor ticked in each list of methods, and how many of the changes were sent and answered.
    const lists = {};
    window.ticksOf = (list) => lists[list] ??= { now: [], asked: 0, sent: 0, answered: 0 };

    // Gradio leaves the list open when Tab leaves it.
    document.addEventListener("keydown", ({ key, target }) => {
        if (key === "Tab" && target.matches("input[role=combobox]")) {
            target.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
        }
    });

    // Gradio reports refused requests only in short English texts; replace them.
    const wanted = navigator.language.toLowerCase().split("-")[0];
    const language = wanted in WORDS.title ? wanted : Object.keys(WORDS.title)[0];
    const meant = [
        [/^This application is currently busy/, "busy"],
        [/^File\(s\) exceed the maximum allowed size of [^:]*: (.*)/, "file_too_large"],
        [/^Connection to the server was lost|^Connection errored out/, "connection_lost"],
    ];
    document.title = WORDS.title[language];
    function translate(text) {
        for (const [pattern, key] of meant) {
            const found = text.textContent.trim().match(pattern);
            if (!found) continue;
            text.textContent = WORDS[key][language].replace("{names}", () => found[1]);
            const title = text.closest(".toast-body")?.querySelector(".toast-title");
            if (title) title.firstChild.data = WORDS.not_done[language];
        }
    }

    // Gradio writes the sizes of files and the ends of sliders with a point in every language. It keeps its text nodes,
    // so only their data may change.
    const mark = (1.5).toLocaleString(language)[1];
    function localise(place) {
        for (const node of place.childNodes) {
            if (node.nodeType !== Node.TEXT_NODE || mark === ".") continue;
            const written = node.data.replace(/^(\s*\d+)\.(\d+)/, `$1${mark}$2`);
            if (written !== node.data) node.data = written;
        }
    }
    function adapt() {
        document.querySelectorAll(".toast-message-text").forEach(translate);
        document.querySelectorAll(".download-link, .min_value, .max_value").forEach(localise);
    }
    new MutationObserver(adapt).observe(document.body, { childList: true, subtree: true, characterData: true });
}
