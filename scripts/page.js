// As much of a page as the figures' scripts need: elements with attributes, children and text, and nothing that is drawn.
class Element {
  constructor(name) {
    Object.assign(this, { name, attributes: {}, dataset: {}, style: {}, children: [], text: "" });
  }
  setAttribute(key, value) { this.attributes[key] = `${value}`; }
  appendChild(child) { this.children.push(child); return child; }
  replaceChildren() { this.children = []; this.text = ""; }
  get textContent() { return this.text + this.children.map((child) => child.textContent).join(""); }
  set textContent(text) { this.replaceChildren(); this.text = text; }
  all(name) { return this.children.flatMap((child) => [...(child.name === name ? [child] : []), ...child.all(name)]); }
}

const host = new Element("div");
const document = {
  createElement: (name) => new Element(name),
  createElementNS: (_, name) => new Element(name),
  querySelectorAll: (selector) => (selector.includes(":not([data-started])") && "started" in host.dataset ? [] : [host]),
};

// What a test asks and does.
const texts = (name) => host.all(name).map((each) => each.textContent);
const press = (name) => host.all("button").find((button) => button.textContent === name).onclick();
const word = (side, token) =>
  host.all("g").find(({ dataset, attributes }) => attributes["data-side"] === side && attributes["data-token"] === `${token}`);
const lines = () => host.all("line").map(({ attributes: { y1, y2, stroke } }) => [y1, y2, stroke]);
