// Panels of one picture: hover shows what a patch says, click or Enter selects it everywhere.
// Where the page wants it, a box or a lasso can be drawn, by mouse, finger or keyboard.
// All text arrives as data and is set as text, never as HTML.

const MODES = [
  ["inspect", "Inspect a patch"], ["box", "Draw a box"], ["lasso", "Draw a lasso"],
];
const SVG = "http://www.w3.org/2000/svg";
const MOST_POINTS = 400; // of a lasso
const SMALLEST = 0.01; // of the picture's side: a shorter drag was meant as a click

class Maps {
  constructor(parent) {
    this.root = make("div", "maps", parent);
    this.mode = "inspect";
    this.tools = make("div", "tools", this.root);
    this.tools.setAttribute("role", "toolbar");
    this.tools.setAttribute("aria-label", "What a click or drag in the maps does");
    this.modes = MODES.map(([mode, label]) => this.newTool(mode, label));
    this.points = null; // of the region being drawn, [row, col] fractions
    this.corner = null; // [row, col] of the first patch of a box drawn by keyboard
    this.panels = make("div", "panels", this.root);
    this.panels.tabIndex = 0;
    this.panels.setAttribute("role", "application");
    this.legend = make("div", "legend", this.root);
    this.tip = make("div", "tip", this.root);
    this.tip.hidden = true;
    this.live = make("div", "live", this.root);
    this.live.setAttribute("aria-live", "polite");
    this.figures = [];
    this.cursor = null;
    this.listen();
    new ResizeObserver(() => this.layout()).observe(this.root);
  }

  listen() {
    this.panels.addEventListener("pointermove", (event) => this.hover(event));
    this.panels.addEventListener("pointerleave", () => this.leave());
    this.panels.addEventListener("click", (event) => this.click(event));
    this.panels.addEventListener("keydown", (event) => this.key(event));
    this.panels.addEventListener("blur", () => this.leave());
    this.panels.addEventListener("pointerdown", (event) => this.start(event));
    this.panels.addEventListener("pointerup", () => this.finish());
    this.panels.addEventListener("pointercancel", () => this.giveUp());
  }

  newTool(mode, label) {
    const button = make("button", "tool", this.tools);
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => this.setMode(mode));
    return button;
  }

  setMode(mode) {
    this.mode = mode;
    this.giveUp();
    this.leave();
    MODES.forEach(([name], index) =>
      this.modes[index].setAttribute("aria-pressed", String(name === mode)));
    this.root.classList.toggle("drawing", mode !== "inspect");
  }

  update(data, send) {
    this.data = data;
    this.send = send;
    this.tools.hidden = !data.draws;
    if (this.tools.hidden || !this.isReady) this.setMode("inspect");
    this.isReady = true;
    this.panels.setAttribute("aria-label", data.label);
    while (this.figures.length > data.panels.length) this.figures.pop().figure.remove();
    while (this.figures.length < data.panels.length) this.figures.push(this.newFigure());
    data.panels.forEach((panel, index) => this.fill(this.figures[index], panel));
    this.fillLegend(data.scale);
    this.mark("selected", data.selected);
    if (!this.points) this.outline(data.region ? corners(data.region) : null);
    if (!this.tip.hidden && this.cursor) this.writeTip(this.cursor);
    this.layout();
  }

  newFigure() {
    const figure = make("figure", "panel", this.panels);
    const caption = make("figcaption", "caption", figure);
    const badge = make("span", "badge", caption);
    const title = make("span", "title", caption);
    const note = make("span", "note", caption);
    const frame = make("div", "frame", figure);
    const img = make("img", "picture", frame);
    img.draggable = false;
    const selected = make("div", "cell selected", frame);
    const hover = make("div", "cell hover", frame);
    selected.hidden = hover.hidden = true;
    const region = document.createElementNS(SVG, "svg");
    region.setAttribute("class", "region");
    region.setAttribute("viewBox", "0 0 1 1");
    region.setAttribute("preserveAspectRatio", "none");
    const lines = ["rim", "line"].map((name) => {
      const line = document.createElementNS(SVG, "polygon");
      line.setAttribute("class", name);
      region.append(line);
      return line;
    });
    frame.append(region);
    return { figure, badge, title, note, frame, img, selected, hover, region, lines };
  }

  fill(parts, panel) {
    parts.badge.textContent = panel.badge;
    parts.badge.hidden = !panel.badge;
    parts.title.textContent = panel.title;
    parts.title.title = panel.title;
    parts.note.textContent = panel.note;
    if (parts.img.src !== panel.src) parts.img.src = panel.src;
    parts.img.alt = panel.alt;
  }

  fillLegend(scale) {
    if (!this.bar) {
      this.low = make("span", "low", this.legend);
      this.bar = make("img", "bar", this.legend);
      this.high = make("span", "high", this.legend);
      this.zero = make("span", "zero", this.legend);
      this.note = make("span", "scale-note", this.legend);
    }
    this.bar.src = scale.src;
    this.bar.alt = scale.alt;
    this.low.textContent = scale.low;
    this.zero.textContent = scale.zero;
    this.high.textContent = scale.high;
    this.note.textContent = scale.note;
  }

  layout() {
    const width = this.root.clientWidth;
    layOut(this.panels, this.figures.length, width, width < 640 ? 150 : 185);
  }

  mark(kind, cell) {
    markCell(this.figures.map((part) => part[kind]), cell, this.data.grid);
  }

  // ---- drawing ----

  // Show a region, [row, col] fractions, in all panels; null hides it.
  outline(points) {
    const text = (points || []).map(([row, col]) => `${col},${row}`).join(" ");
    for (const { region, lines } of this.figures) {
      region.style.display = points ? "" : "none";
      lines.forEach((line) => line.setAttribute("points", text));
    }
  }

  // [row, col] fractions of where an event happened in the panel that is drawn on.
  place(event) {
    const box = this.drawnOn.getBoundingClientRect();
    return [
      clamp((event.clientY - box.top) / box.height, 0, 1),
      clamp((event.clientX - box.left) / box.width, 0, 1),
    ];
  }

  start(event) {
    if (this.mode === "inspect" || event.button) return;
    const part = this.figures.find(({ frame }) => event.composedPath().includes(frame));
    if (!part) return;
    event.preventDefault();
    this.panels.focus({ preventScroll: true }); // the picture must not move under the pointer
    this.drawnOn = part.frame;
    this.panels.setPointerCapture(event.pointerId);
    this.points = [this.place(event)];
  }

  drag(event) {
    const here = this.place(event);
    if (this.mode === "box") {
      this.points = [this.points[0], here];
    } else {
      const [row, col] = this.points[this.points.length - 1];
      const isFar = Math.hypot(here[0] - row, here[1] - col) > SMALLEST;
      if (isFar && this.points.length < MOST_POINTS) this.points.push(here);
    }
    this.outline(corners({ kind: this.mode, points: this.points }));
  }

  finish() {
    const { points, mode } = this;
    if (!points) return;
    this.points = null;
    const spans = [0, 1].map((axis) => {
      const values = points.map((point) => point[axis]);
      return Math.max(...values) - Math.min(...values);
    });
    const isEnough = Math.min(...spans) >= SMALLEST && points.length >= (mode === "box" ? 2 : 3);
    if (isEnough) this.send("region", { kind: mode, points });
    else this.giveUp();
  }

  giveUp() {
    this.points = this.corner = null;
    if (this.data) this.outline(this.data.region ? corners(this.data.region) : null);
  }

  // Enter once for a corner patch, again for the opposite one.
  chooseCorner(cell) {
    if (!this.corner) {
      this.corner = cell;
      this.live.textContent = `Corner at row ${cell[0] + 1}, column ${cell[1] + 1}. `
        + "Move to the opposite corner and press Enter.";
      return;
    }
    const points = this.boxOf(this.corner, cell);
    this.corner = null;
    this.send("region", { kind: "box", points });
  }

  boxOf(one, two) {
    const size = this.data.grid;
    return [
      one.map((value, axis) => Math.min(value, two[axis]) / size[axis]),
      one.map((value, axis) => (Math.max(value, two[axis]) + 1) / size[axis]),
    ];
  }

  hover(event) {
    if (this.points) {
      this.drag(event);
      return;
    }
    if (this.mode !== "inspect") return;
    if (event.pointerType === "touch") return;
    const found = cellAt(event, this.figures, this.data.grid);
    if (!found) {
      this.leave();
      return;
    }
    this.cursor = found.cell;
    this.mark("hover", found.cell);
    this.writeTip(found.cell);
    placeTip(this.tip, found.part.frame);
  }

  leave() {
    this.tip.hidden = true;
    this.mark("hover", null);
  }

  click(event) {
    if (this.mode !== "inspect") return;
    const found = cellAt(event, this.figures, this.data.grid);
    if (found) this.select(found.cell);
  }

  select(cell) {
    this.cursor = cell;
    this.mark("selected", cell);
    this.send("patch", cell);
  }

  key(event) {
    const step = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    }[event.key];
    const [row, col] = this.cursor || this.data.selected || [0, 0];
    if (step) {
      const [rows, cols] = this.data.grid;
      this.cursor = [clamp(row + step[0], 0, rows - 1), clamp(col + step[1], 0, cols - 1)];
      this.mark("hover", this.cursor);
      this.writeTip(this.cursor);
      placeTip(this.tip, this.figures[Math.min(1, this.figures.length - 1)].frame);
      this.live.textContent = this.tip.innerText;
      if (this.corner) {
        this.outline(corners({ kind: "box", points: this.boxOf(this.corner, this.cursor) }));
      }
    } else if (event.key === "Enter" || event.key === " ") {
      if (this.mode === "inspect") this.select([row, col]);
      else this.chooseCorner([row, col]);
    } else if (event.key === "Escape") {
      this.leave();
      this.giveUp();
    } else {
      return;
    }
    event.preventDefault();
  }

  writeTip([row, col]) {
    const { data } = this;
    const index = row * data.grid[1] + col;
    if (!tipHead(this.tip, [row, col], data.content[index])) return;
    const table = make("div", "tip-table", this.tip);
    data.shown.forEach(({ name, values }) => tipRow(table, name, values[index], data));
    this.tipPart("Of all classes, most for", data.supported[index] || []);
    this.tipPart("Most against", data.opposed[index] || []);
  }

  tipPart(title, found) {
    if (!found.length) return;
    make("div", "tip-note", this.tip).textContent = title;
    const table = make("div", "tip-table", this.tip);
    found.forEach(([name, value]) => tipRow(table, this.data.names[name], value, this.data));
  }
}

// The corners of a region as they are joined by lines.
function corners({ kind, points }) {
  if (kind !== "box" || points.length < 2) return points;
  const [[top, left], [bottom, right]] = points;
  return [[top, left], [top, right], [bottom, right], [bottom, left]];
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const view = kept(parentElement, "maps", Maps);
  view.update(data, setTriggerValue);
}
