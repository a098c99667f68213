// Slices of a small block of CT: slider, mouse wheel and keys, windows, outlines, HU at the pointer.
// Everything happens here; the server is asked only when a slice is to be explained.
// All text arrives as data and is set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const WHEEL_STEP = 40; // pixels of scrolling per slice
const FAR = 4; // slices of Page Up and Page Down
const OWN = "Own"; // name of the window that is typed in
const TEN_MM = 10;

const signedMm = (mm) => `${mm > 0 ? "+" : mm < 0 ? "−" : ""}${Math.abs(mm).toFixed(1)} mm`;

function decode(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}

class Ct {
  constructor(parent) {
    this.root = make("div", "ct", parent);
    this.axes = this.newGroup("Direction of the slices");
    this.windows = this.newGroup("Window, for the eye only");
    this.own = make("div", "own", this.root);
    this.centre = this.newNumber("Centre, HU", -1024, 3071, -600);
    this.width = this.newNumber("Width, HU", 1, 4000, 1500);
    this.frame = make("div", "frame", this.root);
    this.frame.tabIndex = 0;
    this.frame.setAttribute("role", "application");
    this.canvas = make("canvas", "canvas", this.frame);
    this.canvas.setAttribute("role", "img");
    this.lines = document.createElementNS(SVG, "svg");
    this.lines.setAttribute("class", "lines");
    this.lines.setAttribute("aria-hidden", "true");
    this.frame.append(this.lines);
    this.place = make("span", "corner place", this.frame);
    this.value = make("span", "corner value", this.frame);
    this.stamp = make("span", "corner stamp", this.frame);
    this.ruler = make("span", "corner ruler", this.frame);
    const row = make("div", "row", this.root);
    this.slider = make("input", "slider", row);
    this.slider.type = "range";
    this.slider.setAttribute("aria-label", "Slice");
    this.ask = make("button", "tool ask", row);
    this.ask.type = "button";
    this.ask.textContent = "Explain this slice";
    this.shown = this.newGroup("Outlines");
    this.key = make("div", "key", this.root);
    this.wheel = 0;
    this.window = null;
    this.outlines = { consensus: true, readers: false };
    this.listen();
  }

  newGroup(label) {
    const group = make("div", "tools", this.root);
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", label);
    return group;
  }

  newNumber(label, low, high, value) {
    const place = make("label", "number", this.own);
    make("span", "", place).textContent = label;
    const input = make("input", "", place);
    Object.assign(input, { type: "number", min: low, max: high, value, step: 10 });
    input.addEventListener("input", () => this.draw());
    return input;
  }

  listen() {
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.slider.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.explain();
    });
    this.frame.addEventListener("keydown", (event) => this.press(event));
    this.frame.addEventListener("wheel", (event) => this.roll(event), { passive: false });
    this.frame.addEventListener("pointermove", (event) => this.read(event));
    this.frame.addEventListener("pointerleave", () => { this.value.textContent = ""; });
    this.ask.addEventListener("click", () => this.explain());
  }

  update(data, send) {
    this.send = send;
    const isNew = !this.data || this.data.key !== data.key;
    this.data = data;
    if (isNew) {
      this.block = decode(data.values);
      this.axis = data.explained[0];
    }
    this.window = this.window || data.windows[0].name;
    this.frame.setAttribute("aria-label", data.label);
    this.stamp.textContent = data.stamp;
    this.ruler.textContent = `${TEN_MM} mm`;
    this.ruler.style.width = `${(100 * TEN_MM) / (data.side * data.mm)}%`;
    this.fillTools();
    if (isNew || String(this.explained) !== String(data.explained)) {
      [this.axis] = data.explained;
      this.explained = data.explained;
      this.fillTools();
      this.show(data.explained[1]);
    } else {
      this.show(this.index);
    }
  }

  // ---- what can be chosen ----

  fillTools() {
    const { data } = this;
    const axes = Object.keys(data.axes);
    this.axes.hidden = axes.length < 2;
    this.fill(this.axes, axes, (name) => name === this.axis, (name) => {
      this.axis = name;
      this.fillTools();
      this.show(data.axes[name].middle);
    });
    const names = [...data.windows.map(({ name }) => name), OWN];
    this.fill(this.windows, names, (name) => name === this.window, (name) => {
      this.window = name;
      this.fillTools();
      this.draw();
    });
    this.own.hidden = this.window !== OWN;
    const kinds = data.readers ? ["consensus", "readers"] : [];
    this.shown.hidden = !kinds.length;
    this.fill(this.shown, kinds, (kind) => this.outlines[kind], (kind) => {
      this.outlines[kind] = !this.outlines[kind];
      this.fillTools();
      this.draw();
    }, { consensus: "50 % consensus", readers: `Each of ${data.readers} readers` });
  }

  fill(group, names, isOn, choose, labels = {}) {
    while (group.children.length > names.length) group.lastChild.remove();
    while (group.children.length < names.length) make("button", "tool", group).type = "button";
    names.forEach((name, index) => {
      const button = group.children[index];
      button.textContent = labels[name] || name;
      button.setAttribute("aria-pressed", String(isOn(name)));
      button.onclick = () => choose(name);
    });
  }

  get range() {
    if (this.window === OWN) {
      const [centre, width] = [Number(this.centre.value), Math.max(1, Number(this.width.value))];
      return [centre - width / 2, centre + width / 2];
    }
    const found = this.data.windows.find(({ name }) => name === this.window);
    return (found || this.data.windows[0]).range;
  }

  // ---- which slice ----

  show(index) {
    const { first, last } = this.data.axes[this.axis];
    this.index = clamp(index, first, last);
    Object.assign(this.slider, { min: first, max: last, step: 1 });
    this.slider.value = this.index;
    this.slider.disabled = first === last;
    this.slider.setAttribute("aria-valuetext", this.words());
    const isExplained = this.axis === this.data.explained[0]
      && this.index === this.data.explained[1];
    this.ask.disabled = isExplained;
    this.ask.textContent = isExplained ? "This slice is explained" : "Explain this slice";
    this.draw();
  }

  words() {
    const { first, last, offsets } = this.data.axes[this.axis];
    const at = this.index - first;
    return `${this.axis}, ${signedMm(offsets[at])}, slice ${at + 1} of ${last - first + 1}`;
  }

  press(event) {
    const { first, last, middle } = this.data.axes[this.axis];
    const to = {
      ArrowUp: this.index + 1, ArrowRight: this.index + 1,
      ArrowDown: this.index - 1, ArrowLeft: this.index - 1,
      PageUp: this.index + FAR, PageDown: this.index - FAR,
      Home: first, End: last, m: middle,
    }[event.key];
    if (event.key === "Enter") this.explain();
    else if (to === undefined) return;
    else this.show(to);
    event.preventDefault();
  }

  roll(event) {
    const { first, last } = this.data.axes[this.axis];
    this.wheel += event.deltaY;
    const steps = Math.trunc(this.wheel / WHEEL_STEP);
    const to = clamp(this.index - steps, first, last);
    if (steps && to === this.index) { // at the end the page scrolls on
      this.wheel = 0;
      return;
    }
    event.preventDefault();
    this.wheel -= steps * WHEEL_STEP;
    if (steps) this.show(to);
  }

  explain() {
    if (!this.ask.disabled) this.send("plane", [this.axis, this.index]);
  }

  // ---- drawing ----

  // Position in the block of a place in the slice; coronal and sagittal slices have z upwards.
  at(row, col) {
    const { side, planes } = this.data;
    const [z, y, x] = {
      axial: [this.index - this.data.axes.axial.first, row, col],
      coronal: [planes - 1 - row, this.index, col],
      sagittal: [planes - 1 - row, col, this.index],
    }[this.axis];
    return (z * side + y) * side + x;
  }

  draw() {
    const { side } = this.data;
    const [low, high] = this.range;
    const small = document.createElement("canvas");
    small.width = small.height = side;
    const brush = small.getContext("2d");
    const picture = brush.createImageData(side, side);
    for (let row = 0; row < side; row += 1) {
      for (let col = 0; col < side; col += 1) {
        const hu = this.block[this.at(row, col)];
        const grey = clamp((255 * (hu - low)) / (high - low), 0, 255);
        picture.data.set([grey, grey, grey, 255], 4 * (row * side + col));
      }
    }
    brush.putImageData(picture, 0, 0);
    this.canvas.width = this.canvas.height = 8 * side;
    const large = this.canvas.getContext("2d");
    large.imageSmoothingEnabled = true;
    large.imageSmoothingQuality = "high";
    large.drawImage(small, 0, 0, 8 * side, 8 * side);
    this.canvas.setAttribute("aria-label", `CT slice: ${this.words()}`);
    this.place.textContent = this.words();
    this.drawLines();
  }

  drawLines() {
    const { side, axes } = this.data;
    const { curves, first } = axes[this.axis];
    this.lines.setAttribute("viewBox", `0 0 ${side} ${side}`);
    this.lines.replaceChildren();
    const drawn = (curves || {})[this.index - first];
    const parts = [];
    if (drawn && this.outlines.readers) {
      drawn.readers.forEach((each, who) => parts.push([each, `reader reader-${who % 4}`]));
    }
    if (drawn && this.outlines.consensus) parts.push([drawn.consensus, "rim"], [drawn.consensus, "line"]);
    parts.forEach(([lines, name]) => lines.forEach((points) => {
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("class", name);
      line.setAttribute("points", points.join(" "));
      this.lines.append(line);
    }));
    this.key.textContent = this.data.readers && !drawn
      ? "No reader drew anything in this slice." : "";
  }

  read(event) {
    const box = this.canvas.getBoundingClientRect();
    const { side } = this.data;
    const row = Math.floor(((event.clientY - box.top) / box.height) * side);
    const col = Math.floor(((event.clientX - box.left) / box.width) * side);
    const isInside = Math.min(row, col) >= 0 && Math.max(row, col) < side;
    const hu = isInside ? this.block[this.at(row, col)] : 0;
    this.value.textContent = isInside ? `${hu < 0 ? "−" : ""}${Math.abs(hu)} HU` : "";
  }
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const view = kept(parentElement, "ct", Ct);
  view.update(data, setTriggerValue);
}
