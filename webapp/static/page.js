// What Gradio leaves undone in the whole page. WORDS is filled in by webapp/page.py: each text by language.
() => {
    // A list of categories is searched by typing, but what is chosen would stay in front of what is typed.
    for (const event of ["focusin", "click"]) {
        document.addEventListener(event, ({ target }) => {
            if (target.matches("input[role=combobox]")) requestAnimationFrame(() => target.select());
        });
    }

    // Gradio says what kept a request from being answered in English only, and tersely.
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
    new MutationObserver(() => document.querySelectorAll(".toast-message-text").forEach(translate)).observe(
        document.body,
        { childList: true, subtree: true, characterData: true },
    );
}
