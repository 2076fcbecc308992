// The tab Live. A camera of the browser's computer is read here, and its pictures go to the server one after the other:
// the next one when the last one was answered. Pictures of the server's cameras and of videos arrive in the answers.
// Runs once, as `js_on_load` of its gr.HTML.
const box = element.querySelector(".live"), video = box.querySelector("video"), picture = box.querySelector(".live-picture");
const report = box.querySelector(".live-report"), verdict = box.querySelector(".live-verdict"), spoken = box.querySelector(".spoken"), canvas = document.createElement("canvas");
const LONGEST = 1920; // pixels of a picture that is sent
const past = new Set(); // sessions that were replaced; their last answers come late
let run = null, stream = null, over = false, paused = false, waiting = false, step = false, sent = 0, next = 0, late = 0;

function say(words, failed = false) {
  const state = box.querySelector(".live-state");
  state.textContent = words;
  state.classList.toggle("failed", failed);
  if ((failed || over) && spoken.textContent !== words) spoken.textContent = words;
}

function end() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  clearTimeout(next);
  clearTimeout(late);
  video.hidden = true;
  video.srcObject = null;
}

async function begin(value) {
  end();
  past.add(run);
  [run, over, paused, waiting, step] = [value.run, false, false, false, false];
  report.replaceChildren();
  verdict.replaceChildren();
  picture.hidden = true;
  for (const button of box.querySelectorAll("[data-act]")) button.textContent = value.words[button.dataset.act];
  press();
  if (!value.device) return;
  try {
    const size = { width: { ideal: LONGEST }, height: { ideal: 1080 } };
    const wanted = { video: { ...size, facingMode: "environment" } };
    const opened = await navigator.mediaDevices.getUserMedia(wanted);
    if (run !== value.run || over) return opened.getTracks().forEach((track) => track.stop());
    stream = opened;
    opened.getVideoTracks()[0].addEventListener("ended", () => stopped(value.words.gone));
    video.srcObject = opened;
    video.hidden = false;
    await video.play();
    send();
  } catch (error) {
    if (run !== value.run || over) return;
    const refused = error.name === "NotFoundError" ? value.words.none : `${value.words.refused} (${error.name})`;
    stopped(navigator.mediaDevices ? refused : value.words.insecure);
  }
}

function stopped(words) { // no picture comes any more
  end();
  over = true;
  press();
  say(words, true);
  trigger("input", { run, act: "stop" });
}

function send() {
  clearTimeout(next);
  if (!stream || waiting || (paused && !step)) return;
  if (!video.videoWidth) return void (next = setTimeout(send, 100));
  const scale = Math.min(1, LONGEST / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  [waiting, sent] = [true, performance.now()];
  trigger("apply", { run, picture: canvas.toDataURL("image/jpeg", 0.95), seconds: sent / 1000, now: step });
  step = false;
  late = setTimeout(() => say(props.value.words.slow, true), 10_000);
}

function answered(wait = props.value.every * 1000 - (performance.now() - sent)) {
  if (!waiting) return;
  waiting = false;
  clearTimeout(late);
  next = setTimeout(send, Math.max(0, wait));
}

function press() {
  box.querySelector("[data-act=pause]").setAttribute("aria-pressed", paused);
  box.querySelectorAll("[data-act]").forEach((button) => { button.disabled = over; });
}

box.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const { act, correct, number, undo } = button.dataset;
  if (act === "pause") paused = !paused;
  if (act === "step") paused = step = true;
  if (act === "stop") {
    end();
    over = true;
    press();
    say(props.value.words.ended);
  }
  if (act) trigger("input", { run, act: act === "pause" && !paused ? "go" : act });
  if (act === "pause" || act === "step") {
    press();
    if (paused) say(props.value.words.paused);
    send();
  }
  if (correct) trigger("like", { run, number: Number(number), good: correct === "good" });
  else if (number) trigger("select", { run, number: Number(number) });
  if (undo !== undefined) trigger("undo", { run });
  if (correct || undo !== undefined) button.disabled = true;
});

function show() {
  const value = props.value;
  box.hidden = !value?.run;
  if (!value?.run) return end();
  if (past.has(value.run)) return answered();
  if (value.run !== run) begin(value);
  if (value.over) {
    end();
    over = true;
  }
  if (!over || value.over) say(paused && !over && !value.failed ? value.words.paused : value.state, value.failed);
  if (value.frame) {
    picture.src = value.frame;
    picture.hidden = false;
  }
  if (value.report !== null) {
    const open = report.querySelector("details")?.open;
    const focused = report.contains(document.activeElement) && document.activeElement;
    report.innerHTML = value.report; // made by the server, which escapes what strangers wrote
    if (open) report.querySelector("details")?.setAttribute("open", "");
    if (focused) focusAgain(focused);
    verdict.replaceChildren(...report.querySelectorAll(".headline"));
    spoken.textContent = verdict.innerText;
  }
  press();
  answered();
}

function focusAgain({ dataset: { number, correct }, tagName }) { // never on a button that corrects another part
  const row = `.live-rows [data-number="${number}"]`;
  const same = correct && `[data-correct=${correct}][data-number="${number}"]`;
  const found = tagName === "SUMMARY" ? "summary" : [same, row].find((name) => name && report.querySelector(name));
  if (found) report.querySelector(found)?.focus({ preventScroll: true });
}

box.addEventListener("refused", () => { // the server did not take the last picture or click
  report.querySelectorAll("button").forEach((button) => { button.disabled = false; });
  answered(2000);
});
watch("value", show);
show();
