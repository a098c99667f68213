// Small pictures with a title and a note: to choose one, to press, or to remove one by its cross.
// All text arrives as data and is set as text, never as HTML.

function move(event, group) {
  const next = nextButton(event, [...group.querySelectorAll(".main")]);
  if (next) next.focus();
}

function main(parent, item, data, send) {
  const pressable = data.kind !== "list";
  const node = make(pressable ? "button" : "div", "main", parent);
  node.title = item.title;
  if (pressable) {
    node.type = "button";
    node.dataset.id = item.id;
    node.setAttribute("aria-label", item.say || item.title);
    node.onclick = () => send("choose", item.id);
  }
  if (data.kind === "choice") {
    node.setAttribute("role", "radio");
    node.setAttribute("aria-checked", String(item.id === data.chosen));
  }
  const strip = make("span", item.srcs.length > 1 ? "strip" : "single", node);
  item.srcs.forEach((src) => {
    const img = make("img", "thumbnail", strip);
    img.src = src;
    img.alt = pressable ? "" : item.say || item.title;
  });
  if (!item.srcs.length) make("span", "blank", strip).textContent = item.blank || "";
  if (item.text) make("span", "text", node).textContent = item.text;
  if (item.note) make("span", "note", node).textContent = item.note;
}

function cross(parent, item, send) {
  const node = make("button", "cross", parent);
  node.type = "button";
  node.textContent = "×";
  node.title = `Remove ${item.title}`;
  node.setAttribute("aria-label", `Remove ${item.title}`);
  node.dataset.id = item.id;
  node.onclick = () => send("remove", item.id);
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const old = parentElement.querySelector(".thumbs");
  const text = JSON.stringify(data);
  if (old && old.shown === text) return;
  const focused = old && old.getRootNode().activeElement;
  const root = document.createElement("section");
  root.className = "thumbs";
  root.shown = text;
  if (data.title) make("div", "label", root).textContent = data.title;
  const group = make("div", `items ${data.size}`, root);
  group.setAttribute("role", data.kind === "choice" ? "radiogroup" : "group");
  group.setAttribute("aria-label", data.label);
  group.addEventListener("keydown", (event) => move(event, group));
  data.items.forEach((item) => {
    const place = make("div", item.id === data.chosen ? "item chosen" : "item", group);
    main(place, item, data, setTriggerValue);
    if (data.kind === "list" && data.removable) cross(place, item, setTriggerValue);
  });
  if (old) old.replaceWith(root);
  else parentElement.append(root);
  if (focused && focused.dataset && focused.dataset.id) {
    const same = [...root.querySelectorAll(`.${focused.className}`)].find(
      (node) => node.dataset.id === focused.dataset.id,
    );
    if (same) same.focus();
  }
}
