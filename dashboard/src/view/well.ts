// The first thing on the page: one sentence, what is wrong, and four figures against their goals.

import { format } from "../format.ts";
import { h, s } from "./dom.ts";
import { type Alarm, alarms, type Figure, figures, type Level } from "./health.ts";
import type { Scene } from "./panel.ts";

const WORDS: Record<Level, string> = { good: "within goal", warn: "above goal", bad: "far above goal", none: "" };

/** Status has a shape and a word besides its colour. */
export function sign(level: Level): SVGSVGElement {
  const shapes: Record<Level, SVGElement> = {
    good: s("path", { d: "M2.5 7.5l3 3 6-7", fill: "none", stroke: "currentColor", "stroke-width": 2 }),
    warn: s("path", { d: "M7 1.5L13 12.5H1z", fill: "currentColor" }),
    bad: s("rect", { x: 1.5, y: 1.5, width: 11, height: 11, fill: "currentColor" }),
    none: s("circle", { cx: 7, cy: 7, r: 3.5, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }),
  };
  return s(
    "svg",
    { class: `sign ${level}`, width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" },
    shapes[level],
  );
}

/** A bar up to the value with a mark at the goal. */
function gauge(figure: Figure): SVGSVGElement {
  const scale = figure.below
    ? Math.max(figure.goal * 1.6, figure.value * 1.05 || 0)
    : Math.max(figure.goal * 1.1, figure.value || 0);
  const part = Number.isFinite(figure.value) ? Math.min(1, figure.value / scale) : 0;
  const goal = figure.goal / scale;
  return s(
    "svg",
    {
      class: `gauge ${figure.level}`,
      width: "100%",
      height: 12,
      viewBox: "0 0 200 12",
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    s("rect", { class: "track", x: 0, y: 4, width: 200, height: 4 }),
    s("rect", { class: "fill", x: 0, y: 4, width: (part * 200).toFixed(1), height: 4 }),
    s("rect", { class: "goal", x: (goal * 200 - 0.75).toFixed(2), y: 0, width: 1.5, height: 12 }),
  );
}

function figureElement(figure: Figure): HTMLElement {
  const word = figure.note || WORDS[figure.level];
  return h(
    "div",
    { class: "figure", id: `figure-${figure.id}` },
    h("h3", {}, figure.title),
    h("p", { class: "number" }, format(figure.value, figure.unit)),
    gauge(figure),
    h("p", { class: "goal-text" }, figure.goalText),
    h("p", { class: `verdict ${figure.level}` }, sign(figure.level), word || "no data"),
  );
}

export interface Well {
  figures: Figure[];
  alarms: Alarm[];
}

export class WellView {
  readonly element: HTMLElement;
  private readonly sentence = h("p", { class: "sentence", role: "status" });
  private readonly list = h("ul", { class: "alarms" });
  private readonly row = h("div", { class: "figures" });
  latest: Well = { figures: [], alarms: [] };
  private said = "";

  constructor() {
    this.element = h("section", { id: "well" }, h("h2", {}, "Is it well?"), this.sentence, this.list, this.row);
  }

  draw(scene: Scene, trouble: string | null): void {
    const values = figures(scene);
    const wrong = alarms(scene, values);
    if (trouble !== null) wrong.unshift({ level: "bad", text: trouble, section: "well" });
    this.latest = { figures: values, alarms: wrong };
    const worst = wrong.some((alarm) => alarm.level === "bad") ? "bad" : wrong.length > 0 ? "warn" : "good";
    const known = values.some((figure) => Number.isFinite(figure.value));
    const text =
      wrong.length > 0
        ? wrong.length === 1
          ? "One thing needs a look."
          : `${wrong.length} things need a look.`
        : known
          ? "All is well: nobody waits, no pool is near its limit, no errors in the last ten seconds."
          : "Nothing has been measured yet.";
    if (text !== this.said) {
      this.said = text;
      this.sentence.replaceChildren(sign(known || wrong.length > 0 ? worst : "none"), text);
    }
    this.list.replaceChildren(
      ...wrong.map((alarm) =>
        h(
          "li",
          { class: alarm.level },
          sign(alarm.level),
          h("a", { href: `#${alarm.section}`, "data-section": alarm.section }, alarm.text),
        ),
      ),
    );
    this.row.replaceChildren(...values.map(figureElement));
  }
}
