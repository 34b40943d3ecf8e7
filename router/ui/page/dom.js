// Making elements, and changing what is shown into what is to be shown: nodes that stay the same stay where they are, with the
// focus, the selection and the place that a reader has in them.
const NAMESPACE = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const keyOf = (node) => node.dataset?.worker ?? node.dataset?.pipeline ?? node.dataset?.number;
const alike = (shown, wanted) => shown.nodeName === wanted.nodeName && keyOf(shown) === keyOf(wanted);

function change(shown, wanted) {
  if (wanted.nodeType !== Node.ELEMENT_NODE) {
    if (shown.data !== wanted.data) shown.data = wanted.data;
    return;
  }
  for (const {name} of [...shown.attributes]) if (!wanted.hasAttribute(name)) shown.removeAttribute(name);
  for (const {name, value} of wanted.attributes) if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  patch(shown, [...wanted.childNodes]);
}

// Makes the children of `parent` like `children` (nodes, or texts).
export function patch(parent, children) {
  let place = parent.firstChild;
  for (const child of children) {
    const wanted = typeof child === "string" ? document.createTextNode(child) : child;
    let shown = place;
    while (shown && !alike(shown, wanted)) shown = shown.nextSibling;
    if (shown) {
      change(shown, wanted);
      if (shown !== place) parent.insertBefore(shown, place);
      place = shown.nextSibling;
    } else {
      parent.insertBefore(wanted, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}
