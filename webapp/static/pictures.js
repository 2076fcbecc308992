// The list of an own part's pictures. Runs once, as `js_on_load` of its gr.HTML. Each event contains what is shown, so that
// the server needs no memory of it.
let focused = null; // selector of what a keyboard has used, because each answer replaces the list

function shown() {
  const list = element.querySelector(".pictures");
  return { kind: list.dataset.kind, page: Number(list.dataset.page), find: list.querySelector("input").value };
}

element.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const { show, turn, picture, back } = button.dataset;
  if (picture) focused = `[data-picture="${CSS.escape(picture)}"]`;
  if (show) focused = `[data-show="${show}"]`;
  if (turn) focused = `[data-turn="${Number(turn) > shown().page ? Number(turn) + 1 : Number(turn) - 1}"]`;
  if (picture) {
    button.disabled = true;
    trigger("apply", { ...shown(), picture, back: back === "yes" });
  } else trigger("input", { ...shown(), ...(show ? { kind: show, page: 0 } : { page: Number(turn) }) });
});

element.addEventListener("change", ({ target }) => {
  if (!target.matches("input")) return;
  focused = "input";
  trigger("input", { ...shown(), page: 0 });
});

watch("value", () => {
  if (!focused) return;
  const places = [focused, "[data-turn]", "[aria-pressed=true]"]; // the picture may have left the list
  focused = null; // now: another key can be pressed before the list is drawn
  const there = () => places.map((place) => element.querySelector(place)).find(Boolean);
  requestAnimationFrame(() => there()?.focus({ preventScroll: true }));
});
