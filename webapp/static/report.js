// The sliders of the report run in the browser; nothing is sent to the server.
// Gradio runs this once for the component and then replaces its content, so the component listens for the events.
const kept = {}; // the visitor's choices, also for the next picture
const downloads = []; // clicks; one is sent after the other, because the page has a single button that gets the file
const spoken = document.createElement("p"); // screen readers only announce changes of an existing element
spoken.className = "spoken";
spoken.setAttribute("role", "status");
element.after(spoken);

function speak() {
  const cards = element.querySelectorAll(".card:not([hidden])");
  spoken.textContent = [...cards].map((card) => card.innerText).join(" ");
}

function show(control) {
  const name = control.dataset.control;
  const language = element.querySelector(".report").lang;
  const percent = new Intl.NumberFormat(language, { style: "percent" });
  const text = name === "rate" ? control.dataset.texts.split("|")[control.value] : percent.format(control.value / 100);
  element.querySelector(`[data-output=${name}]`).textContent = text;
  control.setAttribute("aria-valuetext", text);
  if (name === "rate") control.closest("label").classList.toggle("beyond", Number(control.value) < Number(control.dataset.least));
  if (name === "rate") {
    element.querySelectorAll("[data-step]").forEach((part) => {
      part.hidden = !part.dataset.step.split(" ").includes(control.value);
    });
    speak();
  } else {
    const centre = name === "zoom" ? centres() : null;
    element.querySelector(".report").style.setProperty(`--${name}`, control.value / 100);
    if (centre) centreOn(centre);
  }
}

function centres() { // of what is shown, as shares of the picture; at first the most anomalous point
  const viewer = element.querySelector(".viewer");
  if (viewer.scrollWidth <= viewer.clientWidth + 1) return element.querySelector(".report").dataset.focus.split(" ");
  return [(viewer.scrollLeft + viewer.clientWidth / 2) / viewer.scrollWidth,
          (viewer.scrollTop + viewer.clientHeight / 2) / viewer.scrollHeight];
}

function centreOn([x, y]) {
  element.querySelectorAll(".viewer").forEach((viewer) => {
    viewer.scrollLeft = x * viewer.scrollWidth - viewer.clientWidth / 2;
    viewer.scrollTop = y * viewer.scrollHeight - viewer.clientHeight / 2;
  });
}

function shownRate() {
  const control = element.querySelector("[data-control=rate]");
  return control ? Number(control.dataset.rates.split("|")[control.value]) : null;
}

function takeRate({ dataset: { opening, start } }) { // a row of a batch opens at the rate of the batch
  if (!opening || opening === kept.opening) return;
  kept.opening = opening;
  kept.rate = element.querySelector("[data-control=rate]")?.dataset.rates.split("|")[start];
}

function arrive() {
  downloads.splice(1); // the first one was sent
  const report = element.querySelector(".report");
  if (!report) return speak();
  const source = report.querySelector(".photo[src]").src; // sent once for all viewers
  report.querySelectorAll(".photo").forEach((photo) => { photo.src = source; });
  takeRate(report);
  report.querySelectorAll("[data-control]").forEach((control) => {
    const name = control.dataset.control;
    const chosen = name === "rate" ? control.dataset.rates.split("|").indexOf(kept.rate) : (kept[name] ?? -1);
    if (Number(chosen) >= 0) control.value = chosen;
    show(control);
  });
  report.querySelectorAll("details").forEach((details) => { details.open = Boolean(kept.details); });
  speak();
}

element.addEventListener("input", ({ target }) => {
  const name = target.dataset?.control;
  if (!name) return;
  kept[name] = name === "rate" ? target.dataset.rates.split("|")[target.value] : target.value;
  show(target);
});

element.addEventListener("click", ({ target }) => {
  if (element.closest(".pending")) return; // the report is not that of the choices any more
  const correction = target.closest("[data-correct]");
  if (correction) trigger("apply", { good: correction.dataset.correct === "good", rate: shownRate() });
  if (target.closest("[data-undo]")) trigger("undo", {});
  const teach = target.closest("[data-teach]");
  if (teach) trigger("expand", { again: teach.dataset.teach === "again" });
  const button = target.closest("[data-download]");
  if (!button) return;
  button.setAttribute("aria-busy", "true");
  spoken.textContent = element.querySelector("[data-working]").dataset.working;
  downloads.push({ what: button.dataset.download, method: button.dataset.method ?? null, rate: shownRate() });
  if (downloads.length === 1) trigger("select", downloads[0]);
});

element.closest("#report").addEventListener("downloaded", () => {
  downloads.shift();
  if (element.closest(".pending")) downloads.length = 0; // the report they belong to is gone
  if (downloads.length) return trigger("select", downloads[0]);
  element.querySelectorAll("[aria-busy]").forEach((button) => button.removeAttribute("aria-busy"));
  spoken.textContent = "";
});

element.addEventListener("toggle", ({ target }) => { // the folds of all methods open together
  if (target.tagName !== "DETAILS") return;
  kept.details = target.open;
  element.querySelectorAll("details").forEach((details) => { details.open = target.open; });
}, true);

element.addEventListener("pointerdown", (down) => { // a zoomed picture can be dragged; fingers scroll it anyway
  const viewer = down.target.closest(".viewer");
  if (!viewer || down.pointerType !== "mouse" || down.button) return;
  down.preventDefault();
  viewer.focus();
  viewer.setPointerCapture(down.pointerId);
  const [left, top] = [viewer.scrollLeft, viewer.scrollTop];
  const move = ({ clientX, clientY }) => viewer.scrollTo(left + down.clientX - clientX, top + down.clientY - clientY);
  viewer.addEventListener("pointermove", move);
  const end = () => viewer.removeEventListener("pointermove", move);
  viewer.addEventListener("lostpointercapture", end, { once: true });
});

const placeOf = (viewer) => `${viewer.scrollLeft} ${viewer.scrollTop}`;
const followers = new WeakMap(); // viewers that were scrolled for another one, and to which place

element.addEventListener("scroll", ({ target }) => { // zoomed viewers scroll together
  const follows = followers.get(target) === placeOf(target); // must not move back the one that is dragged
  followers.delete(target);
  if (follows || !target.matches(".viewer")) return;
  for (const viewer of element.querySelectorAll(".viewer")) {
    if (placeOf(viewer) === placeOf(target)) continue;
    viewer.scrollTo(target.scrollLeft, target.scrollTop);
    followers.set(viewer, placeOf(viewer));
  }
}, true);

function comeIntoView() { // the visitor may have clicked an example far below
  const result = element.querySelector(".report:not(.example), .card.failed");
  const top = result?.getBoundingClientRect().top;
  if (top < 0 || top > innerHeight / 2) result.scrollIntoView();
}

watch("value", () => { arrive(); comeIntoView(); });
arrive();
