// A picture on which a box is drawn by mouse, pen or finger; the box is sent once, on release.
// Number inputs beside it do the same by keyboard and show up here as a dashed box.

// Shares of a side: anything less is a click, not a box.
const SMALLEST = 0.02;
const SMALLEST_WIDE = 0.004; // a nodule of 3 mm in a slice of 400 mm is a box

class Crop {
  constructor(parent) {
    this.root = make("div", "crop", parent);
    this.frame = make("div", "frame", this.root);
    this.frame.setAttribute("role", "img");
    this.img = make("img", "picture", this.frame);
    this.img.alt = "";
    this.img.draggable = false;
    this.planned = make("div", "box planned", this.frame);
    this.drawn = make("div", "box drawn", this.frame);
    this.drawn.hidden = true;
    this.start = null;
    this.frame.addEventListener("pointerdown", (event) => this.down(event));
    this.frame.addEventListener("pointermove", (event) => this.move(event));
    this.frame.addEventListener("pointerup", (event) => this.up(event));
    this.frame.addEventListener("pointercancel", () => this.stop());
  }

  update(data, send) {
    this.send = send;
    this.root.classList.toggle("wide", Boolean(data.wide));
    this.smallest = data.wide ? SMALLEST_WIDE : SMALLEST;
    this.frame.setAttribute("aria-label", data.label);
    if (this.img.src !== data.src) {
      this.img.src = data.src;
      this.stop();
    }
    this.planned.hidden = !data.planned;
    if (data.planned) this.show(this.planned, data.planned);
  }

  at(event) {
    const box = this.frame.getBoundingClientRect();
    return [clamp((event.clientX - box.left) / box.width, 0, 1),
      clamp((event.clientY - box.top) / box.height, 0, 1)];
  }

  box(event) {
    const [x, y] = this.at(event);
    const [x0, y0] = this.start;
    return [Math.min(x, x0), Math.min(y, y0), Math.max(x, x0), Math.max(y, y0)];
  }

  show(node, [left, top, right, bottom]) {
    Object.assign(node.style, {
      left: `${100 * left}%`,
      top: `${100 * top}%`,
      width: `${100 * (right - left)}%`,
      height: `${100 * (bottom - top)}%`,
    });
  }

  down(event) {
    if (event.button > 0 || !event.isPrimary) return;
    this.start = this.at(event);
    this.frame.setPointerCapture(event.pointerId);
    this.show(this.drawn, this.box(event));
    this.drawn.hidden = false;
    event.preventDefault();
  }

  move(event) {
    if (this.start) this.show(this.drawn, this.box(event));
  }

  up(event) {
    if (!this.start) return;
    const box = this.box(event);
    this.start = null;
    if (box[2] - box[0] < this.smallest || box[3] - box[1] < this.smallest) this.stop();
    else this.send("box", box);
  }

  stop() {
    this.start = null;
    this.drawn.hidden = true;
  }
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const view = kept(parentElement, "crop", Crop);
  view.update(data, setTriggerValue);
}
