// Shows the categories that contain the typed text. The listener is on the component, because its content is replaced.
element.addEventListener("input", (event) => {
    if (!event.target.closest(".models-filter")) return;
    const wanted = event.target.value.trim().toLowerCase();
    let shown = 0;
    for (const place of element.querySelectorAll(".models-table")) {
        const named = place.querySelector("caption").textContent.toLowerCase().includes(wanted);
        for (const category of place.querySelectorAll("tbody")) {
            category.hidden = !named && !category.textContent.toLowerCase().includes(wanted);
            shown += category.hidden ? 0 : category.rows.length;
        }
        place.hidden = !place.querySelector("tbody:not([hidden])");
    }
    const count = element.querySelector(".models-count");
    count.dataset.all ??= count.textContent;
    count.textContent = wanted ? count.dataset.shown.replace("{}", shown) : count.dataset.all;
});
