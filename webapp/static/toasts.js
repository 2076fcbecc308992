// Gradio says what kept a request from being answered in English only, and tersely; here are the page's own words.
// WORDS is filled in by webapp/page.py: each text by language.
() => {
    const language = navigator.language.toLowerCase().startsWith("de") ? "de" : "en";
    const meant = [
        [/^This application is currently busy/, "busy"],
        [/^File\(s\) exceed the maximum allowed size of [^:]*: (.*)/, "file_too_large"],
        [/^Connection to the server was lost|^Connection errored out/, "connection_lost"],
    ];
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
