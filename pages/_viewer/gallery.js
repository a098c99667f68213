// Thumbnails as one group of radio buttons: one tab stop, arrow keys move, Enter chooses.

const make = (tag, className, parent) => {
  const node = document.createElement(tag);
  node.className = className;
  parent.append(node);
  return node;
};

function move(event, group) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const buttons = [...group.children];
  const at = buttons.indexOf(event.target);
  const next = buttons[(at + step + buttons.length) % buttons.length];
  buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
  next.focus();
  event.preventDefault();
}

function fill(button, item, isChosen, isTabStop) {
  button.type = "button";
  button.title = item.title;
  button.dataset.id = item.id;
  button.tabIndex = isTabStop ? 0 : -1;
  button.setAttribute("role", "radio");
  button.setAttribute("aria-checked", String(isChosen));
  button.setAttribute("aria-label", item.title);
  const img = button.querySelector("img") || make("img", "thumbnail", button);
  if (img.src !== item.src) img.src = item.src;
  img.alt = "";
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  let group = parentElement.querySelector(".gallery");
  if (!group) {
    make("div", "label", parentElement).textContent = data.label;
    group = make("div", "gallery", parentElement);
    group.setAttribute("role", "radiogroup");
    group.addEventListener("keydown", (event) => move(event, group));
  }
  group.setAttribute("aria-label", data.label);
  while (group.children.length > data.items.length) group.lastChild.remove();
  while (group.children.length < data.items.length) make("button", "choice", group);
  const anyChosen = data.items.some((item) => item.id === data.chosen);
  data.items.forEach((item, index) => {
    const isChosen = item.id === data.chosen;
    const button = group.children[index];
    fill(button, item, isChosen, anyChosen ? isChosen : index === 0);
    button.onclick = () => setTriggerValue("sample", item.id);
  });
}
