// The viewer: a stage, and a panel that shows and changes its settings.

class Viewer {
  constructor(container, page, first = 0) {
    this.page = page;
    this.blocks = {}; // the chosen block of each channel of tokens
    this.build(container);
    this.stage = new Stage(this.canvas);
    this.stage.listeners.push(() => this.placeRing());
    new ResizeObserver(() => this.fit()).observe(this.canvas);
    this.fit();
    this.listen();
    this.ready = this.open(first);
  }

  build(container) {
    this.canvas = el("canvas", { className: "stage", tabIndex: 0, role: "img" });
    this.hover = el("div", { className: "hover", hidden: true, role: "status" });
    this.ring = el("div", { className: "ring", hidden: true });
    this.verdict = el("section", { className: "verdict" });
    this.list = el("section", { className: "files" });
    this.modes = el("div", { className: "modes", role: "group", "aria-label": "Color by" });
    this.legend = el("section", { className: "legend" });
    this.panel = el("aside", { className: "panel", "aria-label": "What is shown" },
      this.list, this.verdict,
      el("section", {}, el("h2", {}, "Color by"), this.modes), this.legend, this.buildView());
    const fold = el("button", {
      className: "fold", "aria-expanded": "true", title: "Fold the panel",
      onclick: () => this.fold(),
    }, el("span", { className: "unseen" }, "Fold the panel"));
    this.foldButton = fold;
    this.root = el("div", { className: "viewer" }, this.canvas, this.ring, this.hover,
      el("div", { className: "dock" }, fold, this.panel));
    container.append(this.root);
  }

  buildView() {
    const slider = (label, low, high, value, step, change) => {
      const input = el("input", { type: "range", min: low, max: high, step, value });
      input.addEventListener("input", () => change(Number(input.value)));
      return el("label", { className: "slider" }, el("span", {}, label), input);
    };
    const button = (label, title, onclick) => el("button", { title, onclick }, label);
    const from = (azimuth, elevation) => () => this.stage.look(azimuth, elevation);
    this.spin = el("button", { "aria-pressed": "false", onclick: () => this.toggleSpin() }, "Rotate");
    return el("section", {}, el("h2", {}, "View"),
      slider("Point size", -2, 2, 0, 0.05, (value) => {
        this.stage.pointScale = 2 ** value;
        this.stage.touch(false);
      }),
      slider("Depth shading", 0, 2, 1, 0.05, (value) => {
        this.stage.strength = value;
        this.stage.touch(false);
      }),
      el("div", { className: "buttons" },
        button("Reset", "Whole cloud (R)", () => this.stage.look()), button("Front", "From the front", from(0, 0)),
        button("Side", "From the side", from(90, 0)), button("Top", "From above", from(0, 89.9)),
        this.spin, button("Save PNG", "A picture of the view", () => this.save()),
        button("Theme", "Light or dark", switchTheme)));
  }

  async open(number) {
    this.number = number;
    const cloud = await this.page.clouds[number].load();
    if (this.number !== number) return; // another was chosen meanwhile
    this.cloud = cloud;
    this.rgba = new Uint8Array(4 * cloud.count);
    this.picked = -1;
    this.hover.hidden = this.ring.hidden = true;
    const keys = cloud.channels.map(({ key }) => key);
    if (!keys.includes(this.key)) this.key = cloud.first ?? keys[0];
    colorize(cloud, cloud.channel(this.key), this.block, this.page, this.rgba);
    this.stage.show(cloud.positions, this.rgba, cloud.spacing);
    this.showList();
    this.showVerdict();
    this.showModes();
    this.showLegend();
    this.describe();
    this.root.dataset.cloud = number;
  }

  get channel() {
    return this.cloud.channel(this.key);
  }

  get block() {
    const { key, blocks } = this.channel;
    return Math.min(this.blocks[key] ?? this.strongest(this.channel), (blocks ?? 1) - 1);
  }

  // Center the cloud in the area beside the panel.
  fit() {
    const covers = this.panel.offsetWidth < this.canvas.clientWidth * 0.7 && !this.panel.hidden;
    this.stage.inset = covers ? this.panel.offsetWidth : 0;
    this.stage.resize();
  }

  // The block with the largest mean in a channel of tokens, shown until another one is chosen.
  strongest({ means }) {
    return means ? means.indexOf(Math.max(...means)) : 0;
  }

  describe() {
    this.canvas.setAttribute("aria-label",
      `${this.cloud.name}: ${this.cloud.count.toLocaleString("en")} points, colored by ` +
      `${this.channel.title}. Drag or use the arrow keys to turn, plus and minus to zoom.`);
  }

  recolor() {
    colorize(this.cloud, this.channel, this.block, this.page, this.rgba);
    this.stage.recolor();
    this.describe();
    if (this.picked >= 0) this.tell(this.picked);
  }

  showList() {
    const clouds = this.page.clouds;
    this.list.hidden = clouds.length < 2;
    if (this.list.hidden) return;
    if (!this.rows) {
      this.rows = clouds.map((cloud, i) => el("button", { onclick: () => this.open(i) },
        el("span", { className: `dot ${cloud.facts.verdict ?? ""}` }), el("span", {}, cloud.name)));
      this.counter = el("span", { className: "count number" });
      this.list.append(el("h2", {}, "Clouds ", this.counter), el("div", { className: "rows" }, this.rows));
    }
    this.counter.textContent = `${this.number + 1} of ${clouds.length}`;
    this.rows.forEach((row, i) => row.setAttribute("aria-pressed", i === this.number));
    const rows = this.rows[0].parentElement;
    rows.scrollTop = Math.max(0, this.rows[this.number].offsetTop - rows.offsetTop - 60);
  }

  showVerdict() {
    const { facts, name, count } = this.cloud;
    const lines = facts.lines.map(([what, value]) => el("div", { className: "fact" },
      el("dt", {}, what), el("dd", { className: "number" }, value)));
    const bars = (facts.probabilities ?? []).map(([label, share]) => el("div", { className: "bar" },
      el("span", {}, label), el("i", {}, el("b", { style: { width: `${100 * share}%` } })),
      el("span", { className: "number" }, percent(share, share < 0.095 ? 1 : 0))));
    const badge = facts.verdict
      ? el("span", { className: `badge ${facts.verdict}` }, facts.verdict) : null;
    this.verdict.replaceChildren(
      el("h1", {}, name, badge),
      el("p", { className: "faint number" }, `${count.toLocaleString("en")} points`),
      el("dl", {}, lines),
      bars.length ? el("div", { className: "bars" }, bars) : "");
  }

  showModes() {
    this.modes.replaceChildren(...this.cloud.channels.map((channel) => el("button", {
      "aria-pressed": channel.key === this.key, "data-key": channel.key,
      onclick: () => this.color(channel.key),
    }, channel.title)));
  }

  color(key) {
    this.key = key;
    this.showModes();
    this.showLegend();
    this.recolor();
  }

  showLegend() {
    const channel = this.channel;
    this.player?.stop();
    if (channel.kind === "category") this.showClasses(channel);
    else if (channel.low !== undefined) this.showRamp(channel);
    else this.legend.replaceChildren(el("p", { className: "faint" }, channel.note ?? ""));
  }

  showClasses(channel) {
    const names = this.page.names[channel.names];
    const classes = this.cloud.data[channel.array];
    const counts = new Array(names.length).fill(0);
    for (const one of classes) counts[one]++;
    const off = (this.cloud.hidden[channel.array] ??= new Set());
    const present = names.map((_, i) => i).filter((i) => counts[i]).sort((a, b) => counts[b] - counts[a]);
    const rows = present.map((i) => el("button", {
      className: "class", "aria-pressed": !off.has(i), title: "Show or hide",
      onclick: (event) => {
        if (off.has(i)) off.delete(i); else off.add(i);
        event.currentTarget.setAttribute("aria-pressed", !off.has(i));
        this.recolor();
      },
    }, el("i", { style: { background: names[i].color } }), el("span", {}, names[i].name),
    el("span", { className: "number faint" }, percent(counts[i] / this.cloud.count, 1))));
    const all = (hide) => () => {
      off.clear();
      if (hide) present.forEach((i) => off.add(i));
      rows.forEach((row) => row.setAttribute("aria-pressed", !hide));
      this.recolor();
    };
    this.legend.replaceChildren(
      el("h2", {}, channel.title,
        el("span", { className: "links" }, el("button", { onclick: all(false) }, "all"),
          el("button", { onclick: all(true) }, "none"))),
      el("div", { className: "classes" }, rows));
  }

  showRamp(channel) {
    const stops = this.page.maps[channel.map];
    this.bars = el("svg", { viewBox: "0 0 48 20", preserveAspectRatio: "none", class: "histogram",
      "aria-hidden": "true" });
    const gradient = el("div", { className: "ramp" });
    gradient.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
    const ends = el("div", { className: "ends number" }, el("span", {}, brief(channel.low)),
      el("span", {}, brief((channel.low + channel.high) / 2)), el("span", {}, brief(channel.high)));
    this.legend.replaceChildren(el("h2", {}, channel.title),
      channel.kind === "token" ? this.buildBlocks(channel) : "", this.bars, gradient, ends,
      channel.note ? el("p", { className: "faint" }, channel.note) : "");
    this.drawHistogram();
  }

  buildBlocks(channel) {
    const input = el("input", { type: "range", min: 1, max: channel.blocks, step: 1,
      value: this.block + 1, "aria-label": "Block", className: "block" });
    const said = el("output", { className: "number" });
    const say = () => {
      said.textContent = `block ${this.block + 1} of ${channel.blocks}` +
        `, mean ${brief(channel.means[this.block])}`;
    };
    const go = (block) => {
      this.blocks[channel.key] = block;
      input.value = block + 1;
      say();
      this.recolor();
      this.drawHistogram();
    };
    input.addEventListener("input", () => go(Number(input.value) - 1));
    const play = el("button", { "aria-pressed": "false", title: "Through all blocks" }, "Play");
    this.player = new Player(() => go((this.block + 1) % channel.blocks), play);
    say();
    return el("div", { className: "blocks" }, el("div", { className: "row" }, said, play), input);
  }

  drawHistogram() {
    const counts = histogram(this.cloud, this.channel, this.block);
    const most = Math.max(...counts, 1);
    this.bars.replaceChildren(...counts.map((count, i) => {
      const height = 20 * Math.sqrt(count / most);
      return el("rect", { x: i + 0.1, y: 20 - height, width: 0.8, height });
    }));
  }

  listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let down = null;
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.buttons || event.pointerType === "touch") return;
      this.pointer = at(event);
      this.asked ??= requestAnimationFrame(() => {
        this.asked = undefined;
        if (this.pointer) this.inspect(...this.pointer);
      });
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.inspect(-1, -1);
    });
    this.canvas.addEventListener("pointerdown", (event) => { down = at(event); });
    this.canvas.addEventListener("pointerup", (event) => {
      const [x, y] = at(event);
      const still = down && Math.hypot(x - down[0], y - down[1]) < 6;
      if (still && event.pointerType === "touch") this.inspect(x, y, 16);
    });
    this.root.addEventListener("keydown", (event) => this.onKey(event));
  }

  inspect(x, y, reach) {
    if (!this.cloud) return;
    this.picked = x < 0 ? -1 : this.stage.pick(x, y, reach);
    this.hover.hidden = this.ring.hidden = this.picked < 0;
    if (this.picked >= 0) {
      this.tell(this.picked);
      this.placeRing();
    }
  }

  tell(i) {
    const rows = [["xyz", this.cloud.coordinates(i).map(brief).join("  ")]];
    for (const channel of this.cloud.channels) {
      const text = this.valueText(channel, i);
      if (text !== null) rows.push([channel.title, text]);
    }
    this.hover.replaceChildren(...rows.map(([what, value]) => el("div", {},
      el("span", {}, what), el("span", { className: "number" }, value))));
  }

  valueText(channel, i) {
    const data = this.cloud.data[channel.array];
    if (channel.kind === "category") return this.page.names[channel.names][data[i]].name;
    if (channel.kind === "color") return [...data.slice(3 * i, 3 * i + 3)].join(" ");
    if (channel.kind === "normal") {
      return [...data.slice(3 * i, 3 * i + 3)].map((n) => (n / 127).toFixed(2)).join(" ");
    }
    if (channel.kind === "height") return null; // among xyz
    const block = this.blocks[channel.key] ?? this.strongest(channel);
    const value = this.cloud.value(channel, i, block);
    const shown = channel.percent ? percent(value, 1) : brief(value);
    return channel.kind === "token" ? `${shown} (block ${block + 1})` : shown;
  }

  placeRing() {
    if (this.ring.hidden || this.picked < 0) return;
    const [x, y] = this.stage.place(this.picked);
    this.ring.style.transform = `translate(${x}px, ${y}px)`;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const left = x + 18 + this.hover.offsetWidth > width ? x - 18 - this.hover.offsetWidth : x + 18;
    const top = Math.min(Math.max(8, y - 20), height - this.hover.offsetHeight - 8);
    this.hover.style.transform = `translate(${Math.max(8, left)}px, ${top}px)`;
  }

  onKey(event) {
    const step = { ArrowLeft: [-6, 0], ArrowRight: [6, 0], ArrowUp: [0, 6], ArrowDown: [0, -6] }[event.key];
    if (event.target === this.canvas && step) {
      this.stage.turn(...step);
      event.preventDefault();
    } else if (event.target === this.canvas && "+=-".includes(event.key)) {
      this.stage.zoom(event.key === "-" ? 1.1 : 1 / 1.1);
    } else if (event.target.tagName !== "INPUT" && event.key.toLowerCase() === "r") {
      this.stage.look();
    } else if (event.target.tagName !== "INPUT" && (event.key === "n" || event.key === "p")) {
      const count = this.page.clouds.length;
      this.open((this.number + (event.key === "n" ? 1 : count - 1)) % count);
    }
  }

  toggleSpin() {
    const on = this.spin.getAttribute("aria-pressed") !== "true";
    this.spin.setAttribute("aria-pressed", on);
    this.stage.controls.autoRotate = on;
    this.stage.touch();
  }

  save() {
    this.stage.draw();
    this.canvas.toBlob((blob) => {
      const link = el("a", { href: URL.createObjectURL(blob), download: "view.png" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  fold() {
    const open = this.foldButton.getAttribute("aria-expanded") !== "true";
    this.foldButton.setAttribute("aria-expanded", open);
    this.panel.hidden = !open;
    this.fit();
  }
}

// Calls `step` repeatedly while its button is pressed.
class Player {
  constructor(step, button) {
    this.step = step;
    this.button = button;
    button.addEventListener("click", () => (this.timer ? this.stop() : this.start()));
  }

  start() {
    this.button.setAttribute("aria-pressed", "true");
    this.timer = setInterval(this.step, 600);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = undefined;
    this.button.setAttribute("aria-pressed", "false");
  }
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
}
