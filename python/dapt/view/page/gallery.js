// Cards of clouds: a single stage draws all of them, one after another, into their canvases.

class Gallery {
  constructor(container, page) {
    this.page = page;
    this.canvas = el("canvas", { className: "shared" });
    container.append(this.canvas);
    this.filters = el("div", { className: "filters", role: "group", "aria-label": "Show" },
      ["all", "wrong", "right"].map((which) => el("button", {
        "aria-pressed": which === "all", onclick: (event) => this.filter(which, event.currentTarget),
      }, which)));
    const verdicts = new Set(page.clouds.map((cloud) => cloud.facts.verdict));
    this.filters.hidden = !(verdicts.has("wrong") && verdicts.has("right"));
    this.cards = page.clouds.map((cloud, i) => this.card(cloud, i));
    container.append(this.filters, el("div", { className: "cards" }, this.cards.map(({ root }) => root)));
    this.stage = new Stage(this.canvas);
    const watch = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.draw(this.cards[Number(target.dataset.card)]);
      }
    }, { rootMargin: "300px" });
    this.cards.forEach(({ root }) => watch.observe(root));
    addEventListener("beforeprint", () => this.cards.forEach((card) => this.draw(card)));
  }

  card(cloud, i) {
    const canvas = el("canvas", { width: 480, height: 400, role: "img", "aria-label": cloud.name });
    const { lines, probabilities, verdict } = cloud.facts;
    const truth = lines.find(([what]) => what === "class")?.[1];
    const said = probabilities[0];
    const title = said
      ? el("p", { className: "said" }, el("b", {}, said[0]), ` ${percent(said[1])}`,
        verdict === "wrong" ? el("span", { className: "truth" }, `is ${truth}`) : null)
      : el("p", { className: "said" }, el("b", {}, cloud.name),
        ` ${lines.map(([what, value]) => `${what} ${value}`).join(", ")}`);
    const root = el("button", {
      className: `card ${verdict ?? ""}`, "data-card": i, title: "Open", onclick: () => closer(this.page, i),
    }, canvas, title);
    const card = { root, canvas, cloud, azimuth: 35 };
    root.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      const box = root.getBoundingClientRect();
      card.azimuth = 35 + 260 * ((event.clientX - box.left) / box.width - 0.5);
      card.asked ??= requestAnimationFrame(() => {
        card.asked = undefined;
        this.draw(card);
      });
    });
    return card;
  }

  async draw(card) {
    const cloud = await card.cloud.load();
    if (this.shown !== card) {
      const channel = cloud.channel(cloud.first);
      const means = channel.means ?? [0];
      const rgba = new Uint8Array(4 * cloud.count);
      colorize(cloud, channel, means.indexOf(Math.max(...means)), this.page, rgba);
      this.stage.show(cloud.positions, rgba, cloud.spacing);
      this.shown = card;
    }
    this.stage.look(card.azimuth);
    this.stage.draw();
    const context = card.canvas.getContext("2d");
    context.clearRect(0, 0, card.canvas.width, card.canvas.height);
    context.drawImage(this.canvas, 0, 0, card.canvas.width, card.canvas.height);
    card.root.dataset.drawn = "yes";
  }

  filter(which, pressed) {
    for (const button of this.filters.children) button.setAttribute("aria-pressed", button === pressed);
    for (const { root, cloud } of this.cards) root.hidden = which !== "all" && cloud.facts.verdict !== which;
  }
}

let closerViewer;

// The viewer in a dialog over the page, with all clouds of the gallery.
function closer(page, number) {
  const dialog = document.getElementById("closer");
  dialog.showModal();
  if (closerViewer) closerViewer.open(number);
  else {
    dialog.append(el("button", { className: "close", onclick: () => dialog.close() }, "Close"));
    closerViewer = new Viewer(dialog, page, number);
  }
}
