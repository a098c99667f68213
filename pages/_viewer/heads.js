// One card per attention head: what it looks at, what that is worth, and the product of the two.
// Hovering multiplies out a patch, head by head, down to the sum.
// All text arrives as data and is set as text, never as HTML.

class Heads {
  constructor(parent) {
    this.root = make("div", "heads", parent);
    this.cards = make("div", "cards", this.root);
    this.cards.tabIndex = 0;
    this.cards.setAttribute("role", "application");
    this.scales = make("div", "scales", this.root);
    this.tip = make("div", "tip", this.root);
    this.tip.hidden = true;
    this.live = make("div", "live", this.root);
    this.live.setAttribute("aria-live", "polite");
    this.parts = [];
    this.cards.addEventListener("pointermove", (event) => this.hover(event));
    this.cards.addEventListener("pointerleave", () => this.leave());
    this.cards.addEventListener("click", (event) => this.click(event));
    this.cards.addEventListener("keydown", (event) => this.key(event));
    this.cards.addEventListener("blur", () => this.leave());
  }

  update(data, send) {
    this.data = data;
    this.send = send;
    this.cards.setAttribute("aria-label", data.label);
    this.cards.replaceChildren();
    this.parts = [];
    data.cards.forEach((card) => this.card(card));
    this.scales.replaceChildren();
    data.scales.forEach((scale) => this.scale(scale));
    markCell(this.parts.map(({ mark }) => mark), data.selected, data.grid);
    this.leave();
  }

  card({ title, note, maps }) {
    const card = make("section", "card", this.cards);
    make("div", "title", card).textContent = title;
    make("div", "note", card).textContent = note;
    for (const map of maps) {
      if (!map) { make("div", "gap", card).textContent = "Σ"; continue; }
      const { src, alt, words } = map;
      const figure = make("figure", "panel", card);
      const frame = make("div", "frame", figure);
      const img = make("img", "picture", frame);
      img.src = src;
      img.alt = alt;
      img.draggable = false;
      const mark = make("div", "cell mark", frame);
      const hover = make("div", "cell hover", frame);
      mark.hidden = hover.hidden = true;
      make("figcaption", "words", figure).textContent = words;
      this.parts.push({ frame, mark, hover });
    }
  }

  scale({ name, low, high, src, alt }) {
    const line = make("div", "scale", this.scales);
    make("span", "scale-name", line).textContent = name;
    make("span", "low", line).textContent = low;
    const bar = make("img", "bar", line);
    bar.src = src;
    bar.alt = alt;
    make("span", "high", line).textContent = high;
  }

  hover(event) {
    if (event.pointerType === "touch") return;
    const found = cellAt(event, this.parts, this.data.grid);
    if (found) this.show(found.cell, found.part.frame);
    else this.leave();
  }

  show(cell, frame) {
    this.cursor = cell;
    markCell(this.parts.map(({ hover }) => hover), cell, this.data.grid);
    this.write(cell);
    placeTip(this.tip, frame);
  }

  leave() {
    this.tip.hidden = true;
    for (const { hover } of this.parts) hover.hidden = true;
  }

  click(event) {
    const found = cellAt(event, this.parts, this.data.grid);
    if (found) this.select(found.cell);
  }

  select(cell) {
    markCell(this.parts.map(({ mark }) => mark), cell, this.data.grid);
    this.send("patch", cell);
  }

  key(event) {
    const step = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
    }[event.key];
    const [rows, cols] = this.data.grid;
    const [row, col] = this.cursor || this.data.selected || [0, 0];
    if (step && this.parts.length) {
      this.show([clamp(row + step[0], 0, rows - 1), clamp(col + step[1], 0, cols - 1)],
        this.parts[0].frame);
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

  write([row, col]) {
    const { data } = this;
    const index = row * data.grid[1] + col;
    if (!tipHead(this.tip, [row, col], data.content[index])) return;
    const table = make("div", "sum", this.tip);
    const line = (...cells) => cells.forEach((text) => { make("span", "", table).textContent = text; });
    line("", data.names[0], data.names[1], data.names[2]);
    data.attention.forEach((values, head) => {
      line(`Head ${head + 1}`, values[index].toFixed(data.digits[0]),
        `× ${this.signed(data.relevance[head][index], data.digits[1])}`,
        `= ${this.signed(data.evidence[head][index], data.digits[2])}`);
    });
    line("Sum", "", "", this.signed(data.total[index], data.digits[2]));
  }

  signed(value, digits) {
    const text = Math.abs(value).toFixed(digits);
    if (!Number(text)) return text;
    return (value > 0 ? "+" : "−") + text;
  }
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  kept(parentElement, "heads", Heads).update(data, setTriggerValue);
}
