// Panels of one picture: hover shows what a patch says, click or Enter selects it everywhere.
// All text arrives as data and is set as text, never as HTML.

class Maps {
  constructor(parent) {
    this.root = make("div", "maps", parent);
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
  }

  update(data, send) {
    this.data = data;
    this.send = send;
    this.panels.setAttribute("aria-label", data.label);
    while (this.figures.length > data.panels.length) this.figures.pop().figure.remove();
    while (this.figures.length < data.panels.length) this.figures.push(this.newFigure());
    data.panels.forEach((panel, index) => this.fill(this.figures[index], panel));
    this.fillLegend(data.scale);
    this.mark("selected", data.selected);
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
    return { figure, badge, title, note, frame, img, selected, hover };
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

  hover(event) {
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
    } else if (event.key === "Enter" || event.key === " ") {
      this.select([row, col]);
    } else if (event.key === "Escape") {
      this.leave();
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

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const view = kept(parentElement, "maps", Maps);
  view.update(data, setTriggerValue);
}
