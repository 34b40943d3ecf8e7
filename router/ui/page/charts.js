// Line charts over the last seconds, and small bars. SVG by hand; every picture has a sentence for those who do not see it.
import {element, patch, svg} from "./dom.js";

const HEIGHT = 150, LEFT = 44, BOTTOM = 18, TOP = 8, SECONDS = 300;

export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value >= 1e6) return (value / 1e6).toFixed(1) + "M";
  if (value >= 1e4) return (value / 1e3).toFixed(1) + "k";
  if (value >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return number(unit === 0 ? Math.round(value) : value) + " " + units[unit];
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value >= 10000 ? (value / 1000).toFixed(1) + " s" : number(value) + " ms";
}

// A bar of 0..1, in one or two colours.
export function meter(share, label, kind = "part") {
  const width = Math.max(0, Math.min(1, share || 0)) * 100;
  return svg("svg", {class: "meter", viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label},
             svg("rect", {width: 100, height: 6}), svg("rect", {class: kind, width, height: 6}));
}

function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5, 10]) if (value <= step * power) return step * power;
  return value;
}

// `series`: one or two of {key, name}; a null value is a gap.
export class Chart {
  constructor(parent, title, unit, series, format = number) {
    Object.assign(this, {title, unit, series, format});
    this.legend = element("span", {class: "legend"});
    this.picture = svg("svg", {role: "img"});
    parent.append(element("figure", {}, element("figcaption", {}, element("span", {}, `${title} (${unit})`), this.legend), this.picture));
  }

  // Not `live`: the last that was heard of. Nothing is said of now.
  draw(samples, live = true) {
    const now = samples.length ? samples[samples.length - 1].unix_s : 0;
    let most = 0;
    for (const sample of samples) for (const {key} of this.series) most = Math.max(most, sample[key] ?? 0);
    const top = niceCeiling(most);
    const width = Math.max(260, this.picture.clientWidth || 600);  // drawn as wide as it is shown: letters keep their shape
    this.picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const x = (sample) => LEFT + (width - LEFT) * (1 - (now - sample.unix_s) / SECONDS);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      parts.push(svg("line", {class: "grid", x1: LEFT, x2: width, y1: y(top * share), y2: y(top * share)}));
      const label = svg("text", {x: LEFT - 6, y: y(top * share) + 4, "text-anchor": "end"});
      label.textContent = this.format(top * share).replace(/ ms$/, "");
      parts.push(label);
    }
    for (const [minutes, anchor] of [[5, "start"], [2.5, "middle"], [0, "end"]]) {
      const label = svg("text", {x: LEFT + (width - LEFT) * (1 - minutes / 5), y: HEIGHT - 3, "text-anchor": anchor});
      label.textContent = minutes === 0 ? (live ? "now" : "last heard") : `−${minutes} min`;
      parts.push(label);
    }
    this.series.forEach(({key}, index) => parts.push(...this.line(samples, key, index ? "b" : "a", x, y)));
    patch(this.picture, parts);
    const last = (live ? samples[samples.length - 1] : null) ?? {};
    const words = this.series.map(({key, name}) => `${name} ${this.format(last[key] ?? null)}`);
    this.picture.setAttribute("aria-label", `${this.title}, now: ${words.join(", ")}; highest of five minutes ${this.format(most)}`);
    patch(this.legend, this.series.flatMap(({}, index) => [
      element("span", {class: index ? "key-b" : "key-a", "aria-hidden": "true"}), words[index] + (index + 1 < words.length ? "\u2003" : "")]));
  }

  line(samples, key, kind, x, y) {
    const runs = [];
    let run = [];
    for (const sample of samples) {
      const value = sample[key];
      if (value === null || value === undefined) {
        if (run.length) runs.push(run);
        run = [];
      } else {
        run.push([x(sample), y(value)]);
      }
    }
    if (run.length) runs.push(run);
    return runs.map((points) => points.length === 1
      ? svg("circle", {class: `dot ${kind}`, cx: points[0][0], cy: points[0][1], r: 2})
      : svg("polyline", {class: `line ${kind}`, points: points.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ")}));
  }
}
