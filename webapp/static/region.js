// Draws on a picture what does not count, or what counts: rectangles, polygons, brush. Runs once, as `js_on_load` of its
// gr.HTML. The server gets the shapes, in shares of the picture's sides, and makes the mask.
const box = element.querySelector(".region");
const canvas = box.querySelector("canvas"), pen = canvas.getContext("2d");
const picture = new Image();
let sent = Date.now(), shapes = [], drawing = null, tool = "rectangle", counts = false, cursor = null;
const STEP = 0.02, MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function at(event) {
  const frame = canvas.getBoundingClientRect();
  const share = (value, low, length) => Math.min(1, Math.max(0, (value - low) / length));
  return [share(event.clientX, frame.left, frame.width), share(event.clientY, frame.top, frame.height)];
}

function trace(shape) {
  const points = shape.points.map(([x, y]) => [x * canvas.width, y * canvas.height]);
  pen.beginPath();
  if (shape.kind === "rectangle" && points.length > 1) {
    const [[x, y], [u, v]] = points;
    pen.rect(Math.min(x, u), Math.min(y, v), Math.abs(u - x), Math.abs(v - y));
  } else points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
}

function paint() {
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  for (const shape of drawing ? [...shapes, drawing] : shapes) {
    trace(shape);
    pen.fillStyle = shape.counts ? "rgba(4, 120, 87, 0.35)" : "rgba(30, 30, 30, 0.6)";
    pen.strokeStyle = shape.counts ? "rgba(4, 120, 87, 0.9)" : "rgba(30, 30, 30, 0.9)";
    pen.lineJoin = pen.lineCap = "round";
    if (shape.kind === "brush") {
      pen.lineWidth = shape.width * canvas.width;
      pen.strokeStyle = pen.fillStyle;
      pen.stroke();
    } else {
      pen.lineWidth = 2;
      pen.fill();
      pen.stroke();
    }
  }
  if (!cursor) return;
  const [x, y] = [cursor[0] * canvas.width, cursor[1] * canvas.height];
  for (const [width, colour] of [[5, "white"], [2, "black"]]) {
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.strokeRect(x - 8, y, 16, 0);
    pen.strokeRect(x, y - 8, 0, 16);
  }
}

function keep(shape) {
  drawing = null;
  const [first, ...others] = shape.points;
  const moved = others.some(([x, y]) => Math.hypot(x - first[0], y - first[1]) > 0.005);
  if (moved) shapes.push(shape);
  paint();
  trigger("input", { shapes, number: ++sent });
}

canvas.addEventListener("pointerdown", (event) => {
  if (!picture.src) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  if (tool === "polygon" && drawing) drawing.points.push(at(event));
  else drawing = { kind: tool, counts, width: 0.04, points: [at(event), at(event)] };
  paint();
});
canvas.addEventListener("pointermove", (event) => {
  if (!drawing) return;
  if (tool === "brush" && event.buttons) drawing.points.push(at(event));
  else if (tool === "polygon" || event.buttons) drawing.points[drawing.points.length - 1] = at(event);
  paint();
});
canvas.addEventListener("pointerup", () => { if (drawing && tool !== "polygon") keep(drawing); });
canvas.addEventListener("dblclick", () => { if (drawing && tool === "polygon") keep(drawing); });

canvas.addEventListener("keydown", (event) => { // arrows move a cross; Enter starts and ends a rectangle
  const move = MOVES[event.key];
  if (!picture.src || !(move || event.key === "Enter" || event.key === "Escape")) return;
  event.preventDefault();
  cursor ??= [0.5, 0.5];
  if (move) cursor = cursor.map((value, i) => Math.min(1, Math.max(0, value + STEP * move[i])));
  if (drawing && move) drawing.points[1] = cursor;
  if (event.key === "Escape") drawing = null;
  if (event.key === "Enter" && drawing) return keep(drawing);
  if (event.key === "Enter") drawing = { kind: "rectangle", counts, width: 0, points: [cursor, cursor] };
  paint();
});
canvas.addEventListener("blur", () => { cursor = null; paint(); });

// a polygon ends, too, when the visitor goes on elsewhere: what is shown is what is taught
document.addEventListener("pointerdown", ({ target }) => { if (drawing && !box.contains(target)) keep(drawing); });

box.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  if ((button.dataset.tool || button.dataset.counts) && drawing) keep(drawing);
  if (button.dataset.tool) tool = button.dataset.tool;
  if (button.dataset.counts) counts = button.dataset.counts === "yes";
  if (button.dataset.act === "undo") drawing ? (drawing = null) : shapes.pop();
  if (button.dataset.act === "clear") { shapes = []; drawing = null; }
  box.querySelectorAll("[data-tool]").forEach((each) => each.setAttribute("aria-pressed", each.dataset.tool === tool));
  box.querySelectorAll("[data-counts]").forEach((each) => each.setAttribute("aria-pressed", (each.dataset.counts === "yes") === counts));
  if (!picture.src) return;
  paint();
  if (button.dataset.act) trigger("input", { shapes, number: ++sent });
});

function show() {
  const value = props.value;
  box.hidden = !value?.picture;
  if (!value?.picture || value.picture === picture.src) return;
  const words = value.words;
  box.querySelectorAll("[data-tool]").forEach((each) => { each.textContent = words[each.dataset.tool]; });
  box.querySelectorAll("[data-counts]").forEach((each) => { each.textContent = words[each.dataset.counts === "yes" ? "count" : "ignore"]; });
  box.querySelectorAll("[data-act]").forEach((each) => { each.textContent = words[each.dataset.act]; });
  box.querySelector(".downloads").setAttribute("aria-label", words.tools);
  canvas.setAttribute("aria-label", words.canvas);
  shapes = value.shapes ?? [];
  drawing = null;
  picture.onload = () => {
    canvas.width = picture.naturalWidth;
    canvas.height = picture.naturalHeight;
    paint();
  };
  picture.src = value.picture;
}

watch("value", show);
show();
