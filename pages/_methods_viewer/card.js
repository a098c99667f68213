// The maps of one method: hovering shows what a patch scores in each of them.
// All text arrives as data and is set as text, never as HTML.

class Card {
  constructor(parent) {
    this.root = make("div", "card", parent);
    this.panels = make("div", "panels", this.root);
    this.tip = make("div", "tip", this.root);
    this.tip.hidden = true;
    this.figures = [];
    this.panels.addEventListener("pointermove", (event) => this.hover(event));
    this.panels.addEventListener("pointerleave", () => this.leave());
    new ResizeObserver(() => this.layout()).observe(this.root);
  }

  update(data) {
    this.data = data;
    while (this.figures.length > data.panels.length) this.figures.pop().figure.remove();
    while (this.figures.length < data.panels.length) this.figures.push(this.newFigure());
    data.panels.forEach((panel, index) => this.fill(this.figures[index], panel));
    this.panels.style.setProperty("--shape", `${data.grid[1]} / ${data.grid[0]}`);
    this.leave();
    this.layout();
  }

  layout() {
    const width = this.root.clientWidth;
    const smallest = width < 640 ? 125 : this.data.smallest || 125;
    layOut(this.panels, this.figures.length, width, smallest);
  }

  newFigure() {
    const figure = make("figure", "panel", this.panels);
    const title = make("figcaption", "title", figure);
    const frame = make("div", "frame", figure);
    const img = make("img", "picture", frame);
    img.draggable = false;
    const cell = make("div", "cell", frame);
    cell.hidden = true;
    const scale = make("div", "scale", figure);
    const low = make("span", "low", scale);
    const bar = make("img", "bar", scale);
    const high = make("span", "high", scale);
    const note = make("div", "note", figure);
    return { figure, title, frame, img, cell, low, bar, high, note };
  }

  fill(parts, panel) {
    parts.title.textContent = parts.title.title = panel.title;
    if (parts.img.src !== panel.src) parts.img.src = panel.src;
    parts.img.alt = panel.alt;
    parts.low.textContent = panel.scale.low;
    if (parts.bar.src !== panel.scale.src) parts.bar.src = panel.scale.src;
    parts.bar.alt = panel.scale.alt;
    parts.high.textContent = panel.scale.high;
    parts.note.textContent = parts.note.title = panel.note;
  }

  hover(event) {
    if (event.pointerType === "touch") return;
    const found = cellAt(event, this.figures, this.data.grid);
    if (!found) {
      this.leave();
      return;
    }
    this.mark(found.cell);
    this.write(found.cell);
    placeTip(this.tip, found.part.frame);
  }

  leave() {
    this.tip.hidden = true;
    this.mark(null);
  }

  mark(cell) {
    markCell(this.figures.map((part) => part.cell), cell, this.data.grid);
  }

  write([row, col]) {
    const { data } = this;
    const index = row * data.grid[1] + col;
    if (!tipHead(this.tip, [row, col], data.content[index])) return;
    const table = make("div", "tip-table", this.tip);
    data.panels.forEach(({ title }, which) => {
      tipRow(table, title, data.values[which][index], data);
    });
  }
}

export default function (component) {
  const { data, parentElement } = component;
  const view = kept(parentElement, "card", Card);
  view.update(data);
}
