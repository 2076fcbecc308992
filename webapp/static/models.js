// Shows the categories that hold what is typed. One listener on the component outlives its renewed content.
element.addEventListener("input", (event) => {
    if (!event.target.closest(".models-filter")) return;
    const asked = event.target.value.trim().toLowerCase();
    let shown = 0;
    for (const place of element.querySelectorAll(".models-table")) {
        const named = place.querySelector("caption").textContent.toLowerCase().includes(asked);
        for (const category of place.querySelectorAll("tbody")) {
            category.hidden = !named && !category.textContent.toLowerCase().includes(asked);
            shown += category.hidden ? 0 : category.rows.length;
        }
        place.hidden = !place.querySelector("tbody:not([hidden])");
    }
    const count = element.querySelector(".models-count");
    count.dataset.all ??= count.textContent;
    count.textContent = asked ? count.dataset.shown.replace("{}", shown) : count.dataset.all;
});
