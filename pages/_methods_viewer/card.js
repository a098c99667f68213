// The maps of one method: hovering shows what a patch scores in each of them.
// All text arrives as data and is set as text, never as HTML.

const make = (tag, className, parent) => {
  const node = document.createElement(tag);
  node.className = className;
  parent.append(node);
  return node;
};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

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

  // As few rows as the width allows, all equally full.
  layout() {
    const count = this.figures.length;
    const width = this.root.clientWidth;
    if (!count || !width) return;
    const rows = Math.ceil(count / clamp(Math.floor(width / 125), 1, count));
    this.panels.style.setProperty("--cols", Math.ceil(count / rows));
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
    const part = this.figures.find(({ frame }) => event.composedPath().includes(frame));
    if (!part) {
      this.leave();
      return;
    }
    const box = part.frame.getBoundingClientRect();
    const [rows, cols] = this.data.grid;
    const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1);
    const col = clamp(Math.floor(((event.clientX - box.left) / box.width) * cols), 0, cols - 1);
    this.mark(row, col);
    this.write(row, col);
    this.place(box);
  }

  leave() {
    this.tip.hidden = true;
    this.figures.forEach(({ cell }) => { cell.hidden = true; });
  }

  mark(row, col) {
    const [rows, cols] = this.data.grid;
    for (const { cell } of this.figures) {
      cell.hidden = false;
      Object.assign(cell.style, {
        top: `${(100 * row) / rows}%`,
        left: `${(100 * col) / cols}%`,
        height: `${100 / rows}%`,
        width: `${100 / cols}%`,
      });
    }
  }

  write(row, col) {
    const { data } = this;
    const index = row * data.grid[1] + col;
    this.tip.replaceChildren();
    make("div", "tip-head", this.tip).textContent = `Row ${row + 1}, column ${col + 1}`;
    if (!data.content[index]) {
      make("div", "tip-note", this.tip).textContent = "Padding: no picture here, not counted.";
      return;
    }
    const table = make("div", "tip-table", this.tip);
    data.panels.forEach(({ title }, which) => {
      const value = data.values[which][index];
      make("span", "tip-name", table).textContent = title;
      const sign = value < 0 ? "−" : value > 0 && data.signed ? "+" : "";
      const text = sign + Math.abs(value).toFixed(data.decimals);
      make("span", "tip-value", table).textContent = text;
    });
  }

  place(box) {
    this.tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const below = box.bottom + 6;
    const top = below + height > window.innerHeight ? box.top - height - 6 : below;
    this.tip.style.left = `${clamp(box.left, 4, window.innerWidth - width - 4)}px`;
    this.tip.style.top = `${clamp(top, 4, window.innerHeight - height - 4)}px`;
  }
}

export default function (component) {
  const { data, parentElement } = component;
  const known = parentElement.querySelector(".card");
  const view = known ? known.view : new Card(parentElement);
  view.root.view = view;
  view.update(data);
}
