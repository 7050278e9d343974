// Elements from tags, properties and children; text is never parsed as markup.

const SVG_TAGS = new Set(["svg", "rect", "path", "circle", "line", "title", "polyline"]);

function el(tag, properties = {}, ...children) {
  const isSvg = SVG_TAGS.has(tag);
  const made = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(made.style, value);
    else if (isSvg || name.includes("-") || name === "role" || name === "for") {
      made.setAttribute(name, value);
    } else made[name] = value;
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function percent(share, digits = 0) {
  return `${(100 * share).toFixed(digits)} %`;
}

// A number with four significant digits.
function brief(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
}
