// Points and the patches they stand for, linked both ways: a box or lasso among the points lights
// patches in the pictures, a click on a patch rings its points. Everything is found in the browser
// at once; what was chosen is sent on, so that the page can say it in words.
// All text arrives as data and is set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 60, right: 12, top: 8, bottom: 42 };
const NEAR = 10; // CSS pixels within which a point is hit
const FEW = 12_000; // up to so many points are drawn one by one, more as a density
const DIM = 0.15; // weight of a point that is not lit
const DRAG = 4; // CSS pixels; less is a click
const STEP = 0.02; // of the plot, per arrow key

const numbers = (text, Kind) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
};

const draw = (tag, attributes, parent) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
};

const print = (value, step) => {
  const decimals = Math.min(8, Math.max(0, -Math.floor(Math.log10(step || 1) + 1e-9)));
  const text = Math.abs(value).toFixed(decimals);
  return value < 0 && Number(text) ? `−${text}` : text;
};

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) || 10);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k += 1) found.push(k * step);
  return { step, found };
}

// Whether a point lies inside a polygon (even-odd rule), as on the server.
function inside(polygon, x, y) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const [xi, yi] = polygon[i];
    const [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
  }
  return odd;
}

class Scatter {
  constructor(parent) {
    this.root = make("div", "scatter", parent);
    this.plot = make("div", "plot", this.root);
    this.bar = make("div", "bar", this.plot);
    this.stage = make("div", "stage", this.plot);
    this.stage.tabIndex = 0;
    this.stage.setAttribute("role", "application");
    this.axes = draw("svg", { class: "axes", "aria-hidden": "true" }, this.stage);
    this.canvas = make("canvas", "points", this.stage);
    this.over = draw("svg", { class: "over", "aria-hidden": "true" }, this.stage);
    this.legend = make("div", "legend", this.plot);
    this.panels = make("div", "panels", this.root);
    this.panels.tabIndex = 0;
    this.panels.setAttribute("role", "application");
    this.tip = make("div", "tip", this.root);
    this.tip.hidden = true;
    this.live = make("div", "live", this.root);
    this.live.setAttribute("aria-live", "polite");
    this.figures = [];
    this.mode = "box";
    this.buttons();
    this.listen();
    new ResizeObserver(() => this.layout()).observe(this.stage);
  }

  buttons() {
    this.tools = ["box", "lasso"].map((mode) => {
      const button = make("button", "tool", this.bar);
      button.type = "button";
      button.textContent = mode === "box" ? "Box" : "Lasso";
      button.onclick = () => { this.mode = mode; this.showMode(); };
      return { mode, button };
    });
    this.clearButton = make("button", "tool clear", this.bar);
    this.clearButton.type = "button";
    this.clearButton.textContent = "Clear selection";
    this.clearButton.onclick = () => this.choose(null);
    this.count = make("span", "count", this.bar);
    this.showMode();
  }

  showMode() {
    this.tools.forEach(({ mode, button }) =>
      button.setAttribute("aria-pressed", String(mode === this.mode)));
  }

  listen() {
    const { stage, panels } = this;
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    stage.addEventListener("pointerup", (event) => this.up(event));
    stage.addEventListener("pointercancel", () => { this.trail = null; this.shape(); });
    stage.addEventListener("pointerleave", () => this.leave());
    stage.addEventListener("keydown", (event) => this.key(event));
    stage.addEventListener("blur", () => { this.cursor = null; this.shape(); this.leave(); });
    panels.addEventListener("pointermove", (event) => this.hoverPatch(event));
    panels.addEventListener("pointerleave", () => this.leave());
    panels.addEventListener("click", (event) => this.clickPatch(event));
    panels.addEventListener("keydown", (event) => this.patchKey(event));
    panels.addEventListener("blur", () => this.leave());
  }

  // ---- what arrives -----------------------------------------------------------------------------

  update(data, send) {
    this.data = data;
    this.send = send;
    if (data.id !== this.id) this.take(data);
    this.stage.setAttribute("aria-label", data.label);
    this.panels.setAttribute("aria-label", data.panelsLabel);
    if (data.selection.version !== this.version) {
      this.version = data.selection.version;
      this.selection = data.selection.shape;
    }
    this.marked = data.marked;
    this.fillLegend();
    this.fillPanels();
    this.layout();
  }

  take(data) {
    this.id = data.id;
    this.n = data.count;
    for (const name of ["picture", "patch"]) this[name] = numbers(data[name], Uint16Array);
    this.group = numbers(data.group, Uint8Array);
    const [x0, x1, y0, y1] = data.range;
    const [x, y] = [numbers(data.x, Uint16Array), numbers(data.y, Uint16Array)];
    this.x = Float64Array.from(x, (value) => x0 + ((x1 - x0) * value) / 65535);
    this.y = Float64Array.from(y, (value) => y0 + ((y1 - y0) * value) / 65535);
    this.version = null; // what was chosen comes along
    this.isolated = null;
    this.trail = this.cursor = this.anchor = null;
  }

  fillLegend() {
    this.legend.replaceChildren();
    this.data.groups.forEach(({ name, colour }, index) => {
      const button = make("button", "entry", this.legend);
      button.type = "button";
      make("span", "dot", button).style.background = colour;
      make("span", "name", button).textContent = name;
      button.title = "Show these alone";
      button.setAttribute("aria-pressed", String(this.isolated === index));
      button.onclick = () => {
        this.isolated = this.isolated === index ? null : index;
        this.fillLegend();
        this.paint();
      };
    });
  }

  fillPanels() {
    const { panels } = this.data;
    while (this.figures.length > panels.length) this.figures.pop().figure.remove();
    while (this.figures.length < panels.length) this.figures.push(this.newFigure());
    this.panels.style.setProperty("--cols", panels.length > 2 ? 2 : 1);
    this.panels.classList.toggle("many", panels.length > 2);
    panels.forEach((panel, index) => {
      const part = this.figures[index];
      part.panel = panel;
      part.title.textContent = part.title.title = panel.title;
      part.note.textContent = part.note.title = panel.note;
      if (part.img.src !== panel.src) part.img.src = panel.src;
      part.img.alt = panel.alt;
      [part.veil.height, part.veil.width] = this.data.grid;
    });
  }

  newFigure() {
    const figure = make("figure", "panel", this.panels);
    const caption = make("figcaption", "caption", figure);
    const title = make("span", "title", caption);
    const note = make("span", "note", caption);
    const frame = make("div", "frame", figure);
    const img = make("img", "picture", frame);
    img.draggable = false;
    const veil = make("canvas", "veil", frame);
    const mark = make("div", "cell mark", frame);
    const hover = make("div", "cell hover", frame);
    mark.hidden = hover.hidden = true;
    return { figure, title, note, frame, img, veil, mark, hover };
  }

  // ---- drawing ----------------------------------------------------------------------------------

  layout() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (!this.data || !width || !height) return;
    const [x0, x1, y0, y1] = this.data.range;
    const inner = { w: width - MARGIN.left - MARGIN.right, h: height - MARGIN.top - MARGIN.bottom };
    Object.assign(this, { width, height, inner });
    this.toX = (x) => MARGIN.left + ((x - x0) / (x1 - x0)) * inner.w;
    this.toY = (y) => MARGIN.top + ((y1 - y) / (y1 - y0)) * inner.h;
    this.fromX = (px) => x0 + ((px - MARGIN.left) / inner.w) * (x1 - x0);
    this.fromY = (py) => y1 - ((py - MARGIN.top) / inner.h) * (y1 - y0);
    this.px = Float32Array.from(this.x, this.toX);
    this.py = Float32Array.from(this.y, this.toY);
    this.drawAxes();
    this.choosePoints();
    this.paint();
  }

  drawAxes() {
    const { axes, width, height, data } = this;
    const [x0, x1, y0, y1] = data.range;
    const [bottom, right] = [height - MARGIN.bottom, width - MARGIN.right];
    axes.replaceChildren();
    for (const svg of [axes, this.over]) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const across = ticks(x0, x1, Math.max(2, this.inner.w / 90));
    for (const x of across.found) {
      const at = this.toX(x);
      draw("line", { x1: at, x2: at, y1: MARGIN.top, y2: bottom, class: x ? "grid" : "zero" }, axes);
      draw("text", { x: at, y: bottom + 16, class: "tick middle" }, axes).textContent =
        print(x, across.step);
    }
    const up = ticks(y0, y1, Math.max(2, this.inner.h / 55));
    for (const y of up.found) {
      const at = this.toY(y);
      draw("line", { x1: MARGIN.left, x2: right, y1: at, y2: at, class: y ? "grid" : "zero" }, axes);
      draw("text", { x: MARGIN.left - 6, y: at + 4, class: "tick end" }, axes).textContent =
        print(y, up.step);
    }
    draw("text", { x: (MARGIN.left + right) / 2, y: height - 8, class: "axis middle" }, axes)
      .textContent = data.xLabel;
    draw("text", { x: 0, y: 0, class: "axis middle",
      transform: `translate(13 ${(MARGIN.top + bottom) / 2}) rotate(-90)` }, axes)
      .textContent = data.yLabel;
    this.steps = [across.step / 100, up.step / 100];
  }

  choosePoints() {
    const { selection: shape } = this;
    this.chosen = null;
    this.howMany = 0;
    if (shape) {
      this.chosen = new Uint8Array(this.n);
      for (let i = 0; i < this.n; i += 1) {
        const [x, y] = [this.x[i], this.y[i]];
        const hit = shape.kind === "lasso"
          ? inside(shape.polygon, x, y)
          : x >= shape.box[0] && x <= shape.box[1] && y >= shape.box[2] && y <= shape.box[3];
        if (hit) { this.chosen[i] = 1; this.howMany += 1; }
      }
    }
    this.clearButton.disabled = !shape;
    this.count.textContent = shape ? `${this.howMany} of ${this.n} points` : `${this.n} points`;
    this.veilPanels();
    this.shape();
  }

  isLit(i) {
    return (!this.chosen || this.chosen[i] === 1) &&
      (this.isolated === null || this.group[i] === this.isolated);
  }

  paint() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    const context = canvas.getContext("2d");
    if (this.n <= FEW) this.paintDots(context, ratio);
    else this.paintDensity(context, ratio);
    this.rings();
  }

  // Grey points first, so that lit ones lie on top.
  paintDots(context, ratio) {
    context.scale(ratio, ratio);
    const radius = this.n > 1500 ? 2 : 3.2;
    for (const lit of [false, true]) {
      for (let i = 0; i < this.n; i += 1) {
        if (this.isLit(i) !== lit) continue;
        context.globalAlpha = lit ? 0.8 : 0.22;
        context.fillStyle = lit ? this.data.groups[this.group[i]].colour : "#8a9499";
        context.beginPath();
        context.arc(this.px[i], this.py[i], radius, 0, 7);
        context.fill();
      }
    }
  }

  // Every pixel takes the mean colour of its points, and is the more opaque the more there are.
  paintDensity(context, ratio) {
    const { width: w, height: h } = context.canvas;
    const colours = this.data.groups.map(({ colour }) =>
      [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
    const size = Math.round((this.n < 60_000 ? 3 : 2) * ratio);
    const image = context.createImageData(w, h);
    const sums = new Float32Array(4 * w * h);
    const add = (i, [red, green, blue], weight) => {
      const left = Math.round(this.px[i] * ratio) - (size >> 1);
      const top = Math.round(this.py[i] * ratio) - (size >> 1);
      for (let row = Math.max(0, top); row < Math.min(h, top + size); row += 1) {
        for (let col = Math.max(0, left); col < Math.min(w, left + size); col += 1) {
          const at = 4 * (row * w + col);
          sums[at] += weight * red;
          sums[at + 1] += weight * green;
          sums[at + 2] += weight * blue;
          sums[at + 3] += weight;
        }
      }
    };
    for (let i = 0; i < this.n; i += 1) {
      if (this.isLit(i)) add(i, colours[this.group[i]], 1);
      else add(i, [138, 148, 153], DIM);
    }
    for (let at = 0; at < sums.length; at += 4) {
      const weight = sums[at + 3];
      if (!weight) continue;
      for (let k = 0; k < 3; k += 1) image.data[at + k] = sums[at + k] / weight;
      const alpha = weight < 1 ? 0.6 * weight : 1 - 0.4 * Math.exp(0.15 - 0.15 * weight);
      image.data[at + 3] = 255 * alpha;
    }
    context.putImageData(image, 0, 0);
  }

  // What is drawn over the points: rings of the marked patch, and the box or lasso.
  rings() {
    this.over.querySelectorAll(".ring").forEach((node) => node.remove());
    for (const part of this.figures) part.mark.hidden = true;
    if (!this.marked) return;
    const [picture, patch] = this.marked;
    for (const i of this.pointsOf(picture, patch)) {
      for (const kind of ["ring under", "ring"]) {
        draw("circle", { cx: this.px[i], cy: this.py[i], r: 7, class: kind }, this.over);
      }
    }
    const cols = this.data.grid[1];
    const marks = this.figures.filter(({ panel }) => panel.picture === picture)
      .map(({ mark }) => mark);
    markCell(marks, [Math.floor(patch / cols), patch % cols], this.data.grid);
  }

  shape() {
    this.over.querySelectorAll(".shape").forEach((node) => node.remove());
    if (!this.toX) return;
    const shape = this.trail ? this.shapeOf(this.trail) : this.selection;
    if (shape) {
      const corners = shape.kind === "lasso" ? shape.polygon : [
        [shape.box[0], shape.box[2]], [shape.box[0], shape.box[3]],
        [shape.box[1], shape.box[3]], [shape.box[1], shape.box[2]],
      ];
      const points = corners.map(([x, y]) => `${this.toX(x)},${this.toY(y)}`).join(" ");
      draw("polygon", { points, class: "shape" }, this.over);
    }
    if (this.cursor) {
      const [x, y] = this.cursor;
      draw("path", { d: `M${x - 9},${y}H${x + 9}M${x},${y - 9}V${y + 9}`, class: "shape cross" },
        this.over);
    }
  }

  veilPanels() {
    const [rows, cols] = this.data.grid;
    for (const { panel, veil } of this.figures) {
      const context = veil.getContext("2d");
      context.clearRect(0, 0, cols, rows);
      if (!this.chosen) continue;
      context.fillStyle = "rgb(8 12 14 / 78%)";
      context.fillRect(0, 0, cols, rows);
      for (let i = 0; i < this.n; i += 1) {
        if (this.chosen[i] && this.picture[i] === panel.picture) {
          context.clearRect(this.patch[i] % cols, Math.floor(this.patch[i] / cols), 1, 1);
        }
      }
    }
  }

  // ---- choosing points --------------------------------------------------------------------------

  at(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (event.button > 0 || !event.isPrimary) return;
    this.trail = [this.at(event)];
    this.dragged = false;
    this.stage.setPointerCapture(event.pointerId);
    this.leave();
  }

  move(event) {
    const at = this.at(event);
    if (!this.trail) {
      if (event.pointerType !== "touch") this.hoverPoint(at);
      return;
    }
    const [x, y] = this.trail[0];
    this.dragged = this.dragged || Math.hypot(at[0] - x, at[1] - y) > DRAG;
    const last = this.trail[this.trail.length - 1];
    if (this.mode === "box") this.trail = [this.trail[0], at];
    else if (Math.hypot(at[0] - last[0], at[1] - last[1]) > 3) this.trail.push(at);
    if (this.dragged) this.shape();
  }

  up(event) {
    if (!this.trail) return;
    const trail = this.mode === "box" ? [this.trail[0], this.at(event)] : this.trail;
    this.trail = null;
    if (this.dragged) this.choose(this.shapeOf(trail));
    else this.pick(this.nearest(this.at(event)));
  }

  // The box of a trail of pixels, or the polygon, in the units of the axes.
  shapeOf(trail) {
    const points = trail.map(([x, y]) => [this.fromX(x), this.fromY(y)]);
    if (this.mode === "lasso" && trail.length > 2) {
      const every = Math.ceil(points.length / 200);
      return { kind: "lasso", polygon: points.filter((_, i) => i % every === 0) };
    }
    const [xs, ys] = [0, 1].map((k) => points.map((point) => point[k]));
    return { kind: "box",
      box: [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)] };
  }

  choose(shape) {
    this.selection = shape;
    this.choosePoints();
    this.paint();
    this.live.textContent = shape ? `${this.howMany} points selected` : "Nothing selected";
    this.send("selection", shape || { kind: "none" });
  }

  nearest([x, y]) {
    let [best, found] = [NEAR * NEAR, -1];
    for (let i = 0; i < this.n; i += 1) {
      const distance = (this.px[i] - x) ** 2 + (this.py[i] - y) ** 2;
      if (distance < best && (this.isolated === null || this.group[i] === this.isolated)) {
        [best, found] = [distance, i];
      }
    }
    return found;
  }

  pick(i) {
    if (i >= 0) this.mark(this.picture[i], this.patch[i]);
  }

  mark(picture, patch) {
    this.marked = [picture, patch];
    this.rings();
    this.send("patch", [picture, patch]);
  }

  pointsOf(picture, patch) {
    const found = [];
    for (let i = 0; i < this.n; i += 1) {
      if (this.patch[i] === patch && this.picture[i] === picture) found.push(i);
    }
    return found;
  }

  key(event) {
    const step = {
      ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0],
    }[event.key];
    if (step) {
      const from = this.cursor ||
        [MARGIN.left + this.inner.w / 2, MARGIN.top + this.inner.h / 2];
      if (event.shiftKey && !this.anchor) this.anchor = from;
      if (!event.shiftKey) this.anchor = null;
      this.cursor = [
        clamp(from[0] + step[0] * STEP * this.inner.w, MARGIN.left, this.width - MARGIN.right),
        clamp(from[1] + step[1] * STEP * this.inner.h, MARGIN.top, this.height - MARGIN.bottom),
      ];
      this.trail = null;
      if (this.anchor) {
        const [mode, ends] = [this.mode, [this.anchor, this.cursor]];
        this.mode = "box";
        this.selection = this.shapeOf(ends);
        this.mode = mode;
        this.choosePoints();
        this.paint();
        this.live.textContent = `${this.howMany} points in the box; Enter takes them`;
      } else {
        this.shape();
        this.hoverPoint(this.cursor);
        this.live.textContent = this.tip.hidden ? "No point here" : this.tip.innerText;
      }
    } else if (event.key === "Enter" || event.key === " ") {
      if (this.anchor) { this.anchor = null; this.choose(this.selection); }
      else if (this.cursor) this.pick(this.nearest(this.cursor));
    } else if (event.key === "Escape") {
      this.anchor = this.cursor = null;
      this.leave();
      this.choose(null);
    } else {
      return;
    }
    event.preventDefault();
  }

  // ---- choosing patches -------------------------------------------------------------------------

  clickPatch(event) {
    const found = cellAt(event, this.figures, this.data.grid);
    if (!found) return;
    this.patchCursor = { part: found.part, cell: found.cell };
    this.mark(found.part.panel.picture, found.cell[0] * this.data.grid[1] + found.cell[1]);
  }

  hoverPatch(event) {
    if (event.pointerType === "touch") return;
    const found = cellAt(event, this.figures, this.data.grid);
    if (!found) { this.leave(); return; }
    this.showPatch(found.part, found.cell);
  }

  showPatch(part, cell) {
    const { grid } = this.data;
    markCell(this.figures.map(({ hover }) => hover), null, grid);
    markCell(this.figures.filter(({ panel }) => panel.picture === part.panel.picture)
      .map(({ hover }) => hover), cell, grid);
    const points = this.pointsOf(part.panel.picture, cell[0] * grid[1] + cell[1]);
    if (tipHead(this.tip, cell, points.length > 0)) this.tipPoints(points);
    placeTip(this.tip, part.frame);
  }

  patchKey(event) {
    const step = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    }[event.key];
    const [rows, cols] = this.data.grid;
    const { part, cell } = this.patchCursor || { part: this.figures[0], cell: [0, 0] };
    if (!part) return;
    if (step) {
      const next = [clamp(cell[0] + step[0], 0, rows - 1), clamp(cell[1] + step[1], 0, cols - 1)];
      this.patchCursor = { part, cell: next };
      this.showPatch(part, next);
      this.live.textContent = this.tip.innerText;
    } else if (event.key === "Enter" || event.key === " ") {
      this.mark(part.panel.picture, cell[0] * cols + cell[1]);
    } else if (event.key === "Escape") {
      this.leave();
    } else {
      return;
    }
    event.preventDefault();
  }

  // ---- the tip ----------------------------------------------------------------------------------

  hoverPoint(at) {
    const i = this.nearest(at);
    if (i < 0) { this.leave(); return; }
    const { data } = this;
    const cols = data.grid[1];
    tipHead(this.tip, [Math.floor(this.patch[i] / cols), this.patch[i] % cols], true);
    if (data.titles.length > 1) {
      make("div", "tip-note", this.tip).textContent = data.titles[this.picture[i]];
    }
    this.tipPoints([i]);
    this.tip.hidden = false;
    const box = this.stage.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const right = box.left + this.px[i] + 14;
    const left = right + width > window.innerWidth ? right - width - 28 : right;
    const top = box.top + this.py[i] - height / 2;
    this.tip.style.left = `${clamp(left, 4, window.innerWidth - width - 4)}px`;
    this.tip.style.top = `${clamp(top, 4, window.innerHeight - height - 4)}px`;
  }

  tipPoints(points) {
    const table = make("div", "tip-table", this.tip);
    const row = (name, text) => {
      make("span", "tip-name", table).textContent = name;
      make("span", "tip-value", table).textContent = text;
    };
    for (const i of points.slice(0, 16)) {
      if (points.length > 1 || this.data.perHead) row(this.data.groups[this.group[i]].name, "");
      row(this.data.xName, print(this.x[i], this.steps[0]));
      row(this.data.yName, print(this.y[i], this.steps[1]));
    }
  }

  leave() {
    this.tip.hidden = true;
    for (const { hover } of this.figures) hover.hidden = true;
  }
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  kept(parentElement, "scatter", Scatter).update(data, setTriggerValue);
}
