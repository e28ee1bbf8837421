// The table of differences between two runs, with the test it rests on.

import { format } from "../format.ts";
import { type Compared, compare, LEVEL } from "./compare.ts";
import { h } from "./dom.ts";
import type { Scene } from "./panel.ts";

function chance(p: number): string {
  if (Number.isNaN(p)) return "–";
  return p < 0.0001 ? "< 0.0001" : p.toFixed(4);
}

function verdict(row: Compared): [string, string] {
  if (row.verdict === "unknown") return ["in one run only", "none"];
  if (row.verdict === "same") return ["no difference shown", "none"];
  if (row.better === "neither") return [row.verdict, "none"];
  const worse = (row.verdict === "higher") === (row.better === "low");
  return [`${row.verdict}, ${worse ? "worse" : "better"}`, worse ? "bad" : "good"];
}

export class DifferenceView {
  readonly element: HTMLElement;
  rows: Compared[] = [];
  private readonly body = h("tbody");
  private readonly names = h("p", { class: "advice" });

  constructor() {
    this.element = h(
      "section",
      { id: "compare", hidden: true },
      h("h2", {}, "What differs between the runs?"),
      this.names,
      h(
        "div",
        { class: "table-scroll", tabindex: 0, role: "region", "aria-label": "Differences" },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ...["Measure", "A, median", "B, median", "Change", "B higher in", "p", "B is"].map((name) =>
                h("th", { scope: "col" }, name),
              ),
            ),
          ),
          this.body,
        ),
      ),
      h(
        "p",
        { class: "note" },
        `Two-sided Mann-Whitney test on the values of each second within the time shown, with correction for ties; called a difference below p = ${LEVEL}. ` +
          "Neighbouring seconds resemble each other, so real certainty is lower than p says: repeat runs before deciding on small changes.",
      ),
    );
  }

  draw(scene: Scene): void {
    this.element.hidden = scene.second === null;
    if (scene.second === null) return;
    this.rows = compare(scene);
    this.names.textContent = `A: ${scene.query.run.name}. B: ${scene.second.query.run.name}. B is drawn with dots, moved to A's beginning.`;
    this.body.replaceChildren(
      ...this.rows.map((row) => {
        const [words, level] = verdict(row);
        const change = Number.isFinite(row.change)
          ? `${row.change >= 0 ? "+" : "−"}${Math.abs(row.change * 100).toFixed(1)} %`
          : "–";
        const cells = [
          format(row.median[0], row.unit),
          format(row.median[1], row.unit),
          change,
          Number.isNaN(row.superiority) ? "–" : `${format(row.superiority, "ratio")} of pairs`,
          chance(row.p),
        ];
        return h(
          "tr",
          {},
          h("th", { scope: "row" }, row.name),
          ...cells.map((cell) => h("td", {}, cell)),
          h("td", { class: `verdict ${level}` }, words),
        );
      }),
    );
  }
}
