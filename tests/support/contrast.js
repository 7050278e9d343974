// Texts of a page whose contrast with their background is below 4.5 (WCAG AA).
() => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\d.]+/g).map(Number).slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\)$|transparent/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = "h1, h2, h3, p, th, td span, figcaption, nav a, .tile *, .key li, .chart text";
  const bad = [];
  for (const e of document.querySelectorAll(texts)) {
    if (!e.textContent.trim() || !e.getClientRects().length || e.matches(".count")) continue;
    const drawing = e.closest("svg");
    const color = drawing ? getComputedStyle(e).fill : getComputedStyle(e).color;
    const pair = [luminance(color), luminance(ground(drawing?.parentElement ?? e))];
    const [bright, dark] = pair.sort((a, b) => b - a);
    if ((bright + 0.05) / (dark + 0.05) < 4.5) bad.push([e.textContent.slice(0, 20), color]);
  }
  return bad;
}
