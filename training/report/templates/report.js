"use strict";
/* What moves on the page. Bokeh draws; this sets the columns of its sources. */

const FRAME = 90; // milliseconds of a time while a flow plays
const REST = 900; // and of its end

const COLORS = {
  light: { text: "#4a505b", grid: "#d5d9e0", icons: "#22262e" },
  dark: { text: "#b6bcc7", grid: "#3a404b", icons: "#e8eaef" },
};

/** Gives all axes and grids the colors of the browser's preference. */
function dress(doc, dark) {
  const colors = dark ? COLORS.dark : COLORS.light;
  for (const plot of doc.roots()) {
    if (plot.type !== "Figure") continue;
    for (const side of ["left", "right", "above", "below", "center"]) {
      for (const part of plot[side]) {
        if (part.type.endsWith("Axis")) {
          part.major_label_text_color = colors.text;
          part.axis_label_text_color = colors.text;
        } else if (part.type === "Grid") {
          part.grid_line_color = colors.grid;
        }
      }
    }
  }
}

/** Where a point in 3-D is seen from a side, in degrees: [right, up]. */
function projection(azimuth, elevation) {
  const a = (azimuth * Math.PI) / 180;
  const e = (elevation * Math.PI) / 180;
  const level = -Math.sin(e);
  return [
    [-Math.sin(a), Math.cos(a), 0],
    [level * Math.cos(a), level * Math.sin(a), Math.cos(e)],
  ];
}

function projected(axes, direction) {
  const [x, y, z] = axes;
  const [a, b, c] = direction;
  const seen = new Float32Array(x.length);
  for (let i = 0; i < seen.length; i++) seen[i] = a * x[i] + b * y[i] + c * z[i];
  return seen;
}

/** The root mean square distance of some points from their mean. */
function spread(columns, indices) {
  let sum = 0;
  for (const values of columns) {
    let mean = 0;
    for (const i of indices) mean += values[i] / indices.length;
    for (const i of indices) sum += (values[i] - mean) ** 2 / indices.length;
  }
  return Math.sqrt(sum);
}

class Flow {
  constructor(element, doc) {
    this.element = element;
    this.settings = JSON.parse(element.dataset.flow);
    this.points = doc.get_model_by_name(`${this.settings.name}-points`);
    this.frames = doc.get_model_by_name(`${this.settings.name}-frames`);
    this.names = this.settings.turns ? ["x", "y", "z"] : ["x", "y"];
    this.timer = null;
    const find = (name) => element.querySelector(name);
    [this.when, this.turn, this.tilt] = [find(".when"), find(".turn"), find(".tilt")];
    [this.play, this.clear, this.coloring] = [find(".play"), find(".clear"), find(".coloring")];
    this.when.addEventListener("input", () => this.show());
    for (const side of [this.turn, this.tilt]) side?.addEventListener("input", () => this.show(true));
    this.play.addEventListener("click", () => (this.timer === null ? this.start() : this.stop()));
    this.coloring?.addEventListener("change", () => this.color());
    this.clear.addEventListener("click", () => (this.points.selected.indices = []));
    const held = this.points.selected;
    held.connect(held.properties.indices.change, () => this.tell());
    this.color();
    this.show(true);
  }

  /** The coordinates of one time. */
  at(frame) {
    const n = this.settings.count;
    return this.names.map((name) => {
      const { buffer, byteOffset } = this.frames.data[name];
      return new Float32Array(buffer, byteOffset + 4 * frame * n, n);
    });
  }

  show(all = false) {
    const frame = Number(this.when.value);
    const last = this.settings.times.length - 1;
    const places = all ? { start: 0, now: frame, end: last } : { now: frame };
    for (const [place, index] of Object.entries(places)) {
      let axes = this.at(index);
      if (this.settings.turns) {
        const sides = projection(Number(this.turn.value), Number(this.tilt.value));
        if (place === "now") {
          this.names.forEach((name, k) => (this.points.data[`now_${name}_own`] = axes[k]));
        }
        axes = sides.map((direction) => projected(axes, direction));
      }
      this.points.data[`${place}_x`] = axes[0];
      this.points.data[`${place}_y`] = axes[1];
    }
    this.points.change.emit();
    const time = `t = ${this.settings.times[frame].toFixed(2)}`;
    this.element.querySelector(".told-time").textContent = time;
    this.when.setAttribute("aria-valuetext", time);
    this.tell();
  }

  color() {
    const legend = this.settings.legends[Number(this.coloring?.value ?? 0)];
    this.points.data.color = this.points.data[legend.column];
    this.points.change.emit();
    const meaning = this.element.querySelector(".meaning");
    meaning.textContent = `${legend.note[0].toUpperCase()}${legend.note.slice(1)}. `;
    if (legend.scale) {
      const [low, colors, high] = legend.scale;
      const scale = document.createElement("span");
      const bar = document.createElement("i");
      scale.className = "scale";
      bar.style.background = `linear-gradient(to right, ${colors.join(", ")})`;
      scale.append(low, bar, high);
      meaning.append(scale, " ");
    }
  }

  /** Says how many points are held, and how far they are from each other. */
  tell() {
    const held = this.points.selected.indices;
    const told = this.element.querySelector(".held");
    this.clear.disabled = held.length === 0;
    this.announce(held);
    if (held.length === 0) {
      told.textContent = "Select points with the lasso or the box.";
      return;
    }
    const last = this.settings.times.length - 1;
    const frames = [0, Number(this.when.value), last];
    const [start, now, end] = frames.map((frame) => spread(this.at(frame), held).toPrecision(2));
    told.textContent =
      `${held.length} of ${this.settings.count} points selected; root mean square distance from ` +
      `their mean: ${start} at the start, ${now} now, ${end} at the end.`;
  }

  /** Tells images of the same motion which of them are held. */
  announce(held) {
    const samples = new Set(held.map((i) => Number(this.points.data.sample[i])));
    const others = this.element.parentElement.querySelectorAll(".images");
    for (const other of others) {
      if (other.dataset.moved !== this.element.dataset.moved) continue;
      for (const button of other.querySelectorAll(".grid .cell")) {
        button.classList.toggle("held", samples.has(Number(button.dataset.index)));
      }
    }
  }

  /** Holds one sample, if it is shown. */
  hold(sample) {
    const index = Array.from(this.points.data.sample, Number).indexOf(sample);
    this.points.selected.indices = index < 0 ? [] : [index];
  }

  start() {
    const last = this.settings.times.length - 1;
    if (Number(this.when.value) === last) this.move(0);
    this.play.textContent = "Pause";
    this.play.setAttribute("aria-pressed", "true");
    const step = () => {
      const frame = Number(this.when.value);
      this.move(frame === last ? 0 : frame + 1);
      this.timer = setTimeout(step, Number(this.when.value) === last ? REST : FRAME);
    };
    this.timer = setTimeout(step, FRAME);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
    this.play.setAttribute("aria-pressed", "false");
  }

  move(frame) {
    this.when.value = frame;
    this.show();
  }
}

/** A chart of two columns that are chosen. */
function views(element, doc) {
  const { sets } = JSON.parse(element.dataset.views);
  const pick = (name) => element.querySelector(name)?.value ?? "0";
  const show = () => {
    for (const name of sets) {
      const source = doc.get_model_by_name(name);
      const { data } = doc.get_model_by_name(`${name}-columns`);
      const column = (k) => data[`${pick(".group")}-${k}`] ?? data[`0-${k}`];
      source.data = { ...source.data, x: column(pick(".across")), y: column(pick(".up")) };
    }
  };
  for (const list of element.querySelectorAll("select")) list.addEventListener("change", show);
}

/** A grid of images, and the strip of the one that is chosen. */
function images(element, flows) {
  const columns = Number(element.dataset.columns);
  const cut = (cell, index) => {
    cell.style.setProperty("--x", index % columns);
    cell.style.setProperty("--y", Math.floor(index / columns));
  };
  const buttons = [...element.querySelectorAll(".grid .cell")];
  const label = (cell) => {
    const { textContent } = element.querySelector(".chosen");
    cell.setAttribute("aria-label", `${cell.dataset.title} of ${textContent}`);
  };
  const choose = (button) => {
    for (const each of buttons) each.setAttribute("aria-pressed", String(each === button));
    element.querySelector(".chosen").textContent = button.title;
    for (const cell of element.querySelectorAll(".strip .cell")) {
      cut(cell, Number(button.dataset.index));
      label(cell);
    }
  };
  const drawn = element.querySelector(".drawn");
  const slider = element.querySelector(".draw");
  slider?.addEventListener("input", () => {
    const number = Number(slider.value);
    drawn.className = `cell drawn sheet-${Number(drawn.dataset.first) + number}`;
    drawn.dataset.title = `draw ${number + 1} of ${Number(slider.max) + 1}`;
    drawn.nextElementSibling.textContent = drawn.dataset.title;
    slider.setAttribute("aria-valuetext", drawn.dataset.title);
    label(drawn);
  });
  for (const button of buttons) {
    cut(button, Number(button.dataset.index));
    button.addEventListener("click", () => {
      choose(button);
      for (const flow of flows) {
        const { parentElement, dataset } = flow.element;
        const same = dataset.moved === element.dataset.moved;
        if (same && parentElement === element.parentElement) flow.hold(Number(button.dataset.index));
      }
    });
  }
}

/** Begins as soon as Bokeh has made its document, if there are charts. */
function begin() {
  const doc = window.Bokeh?.documents[0];
  if (document.querySelector(".plot") !== null) {
    if (doc === undefined || !doc.is_idle) {
      setTimeout(begin, 30);
      return;
    }
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    dress(doc, dark.matches);
    dark.addEventListener("change", () => dress(doc, dark.matches));
  }
  const flows = [...document.querySelectorAll(".flow")].map((element) => new Flow(element, doc));
  for (const element of document.querySelectorAll(".views")) views(element, doc);
  for (const element of document.querySelectorAll(".images")) images(element, flows);
  document.documentElement.dataset.ready = "true";
}

begin();
