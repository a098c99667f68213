// A list of names with bars and values; the text says everything that the bars show.

function row(list, item, data) {
  const line = make("li", "row", list);
  make("span", "name", line).textContent = item.name;
  const track = make("span", "track", line);
  const bar = make("span", "bar", track);
  bar.style.width = `${100 * Math.min(1, Math.abs(item.value) / data.full)}%`;
  if (data.colour) bar.style.background = data.colour;
  make("span", "value", line).textContent = item.text;
}

export default function (component) {
  const { data, parentElement } = component;
  const old = parentElement.querySelector(".bars");
  const root = document.createElement("section");
  root.className = "bars";
  root.setAttribute("aria-label", data.title);
  make("div", "title", root).textContent = data.title;
  const list = make("ul", "list", root);
  list.setAttribute("role", "list");
  data.items.forEach((item) => row(list, item, data));
  if (!data.items.length) make("div", "none", root).textContent = data.none;
  if (old) old.replaceWith(root);
  else parentElement.append(root);
}
