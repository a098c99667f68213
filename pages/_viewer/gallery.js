// Thumbnails as one group of radio buttons: one tab stop, arrow keys move, Enter chooses.

function move(event, group) {
  const buttons = [...group.children];
  const next = nextButton(event, buttons);
  if (!next) return;
  buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
  next.focus();
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
