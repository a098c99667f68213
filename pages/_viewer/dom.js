// What the components share: making nodes, marking a patch, and moving among buttons by keyboard.
// This text stands before the script of every component that names it.

const make = (tag, className, parent) => {
  const node = document.createElement(tag);
  node.className = className;
  parent.append(node);
  return node;
};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// The object that keeps a component's state, made once per place on the page.
function kept(parent, className, Kind) {
  const known = parent.querySelector(`.${className}`);
  const view = known ? known.view : new Kind(parent);
  view.root.view = view;
  return view;
}

// As few rows as the width allows, all equally full.
function layOut(panels, count, width, smallest) {
  if (!count || !width) return;
  const rows = Math.ceil(count / clamp(Math.floor(width / smallest), 1, count));
  panels.style.setProperty("--cols", Math.ceil(count / rows));
}

// The part whose frame an event happened in, and the [row, col] of the patch there.
function cellAt(event, parts, [rows, cols]) {
  const part = parts.find(({ frame }) => event.composedPath().includes(frame));
  if (!part) return null;
  const box = part.frame.getBoundingClientRect();
  const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1);
  const col = clamp(Math.floor(((event.clientX - box.left) / box.width) * cols), 0, cols - 1);
  return { part, cell: [row, col] };
}

// Put the marks of all panels on one patch; null hides them.
function markCell(marks, cell, [rows, cols]) {
  for (const mark of marks) {
    mark.hidden = !cell;
    if (!cell) continue;
    Object.assign(mark.style, {
      top: `${(100 * cell[0]) / rows}%`,
      left: `${(100 * cell[1]) / cols}%`,
      height: `${100 / rows}%`,
      width: `${100 / cols}%`,
    });
  }
}

// The first line of a tip; false where there is nothing to say of the patch.
function tipHead(tip, [row, col], isContent) {
  tip.replaceChildren();
  make("div", "tip-head", tip).textContent = `Row ${row + 1}, column ${col + 1}`;
  if (!isContent) {
    make("div", "tip-note", tip).textContent = "Padding: no picture here, not counted.";
  }
  return Boolean(isContent);
}

function tipRow(table, name, value, data) {
  make("span", "tip-name", table).textContent = name;
  const sign = value < 0 ? "−" : value > 0 && data.signed ? "+" : "";
  make("span", "tip-value", table).textContent = sign + Math.abs(value).toFixed(data.decimals);
}

// Below a panel, or above it where the window ends, so that no map in its row is covered.
function placeTip(tip, frame) {
  tip.hidden = false;
  const box = frame.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = tip;
  const below = box.bottom + 6;
  const top = below + height > window.innerHeight ? box.top - height - 6 : below;
  tip.style.left = `${clamp(box.left, 4, window.innerWidth - width - 4)}px`;
  tip.style.top = `${clamp(top, 4, window.innerHeight - height - 4)}px`;
}

// The button that an arrow key leads to from the one in focus, or null.
function nextButton(event, buttons) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const at = buttons.indexOf(event.target);
  if (!step || at < 0) return null;
  event.preventDefault();
  return buttons[(at + step + buttons.length) % buttons.length];
}
