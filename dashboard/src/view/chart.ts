// A chart on the page: its title, its legend with the values at the cursor, the plot, the table behind it and its exports.

import { type EChartsType, init } from "../chart/echarts.ts";
import { colourOf, dashOf, type Look } from "../chart/look.ts";
import { describe, isEmpty, type Model, nameOf, type TimeModel, tableOf, unitOf, valueAt } from "../chart/model.ts";
import { MARGIN, optionOf } from "../chart/option.ts";
import { clock, format } from "../format.ts";
import { h, sample } from "./dom.ts";
import type { Panel, Scene } from "./panel.ts";

/** What a chart tells the page and asks of it. */
export interface ChartHost {
  scene(): Scene | null;
  look(): Look;
  /** The cursor is at this time in one chart: it stands in all of them. */
  point(time: number | null): void;
  zoom(from: number, to: number): void;
  widen(): void;
  isHidden(panel: string, line: string): boolean;
  toggle(panel: string, line: string): void;
  save(panel: Panel, model: Model, form: ExportForm): void;
  helpOf(metric: string): string;
  say(text: string): void;
}

export type ExportForm = "png" | "svg" | "pdf" | "csv" | "ndjson";
export const FORMS: [ExportForm, string][] = [
  ["png", "PNG"],
  ["svg", "SVG"],
  ["pdf", "PDF"],
  ["csv", "CSV"],
  ["ndjson", "NDJSON"],
];

const TABLE_ROWS = 300;

export class Chart {
  readonly element: HTMLElement;
  model: Model | null = null;
  visible = false;
  private stale = true;
  private plot: EChartsType | null = null;
  private readonly box: HTMLElement;
  private readonly legend: HTMLElement;
  private readonly none: HTMLElement;
  private readonly cursor: HTMLElement;
  private readonly brush: HTMLElement;
  private readonly details: HTMLDetailsElement;
  private readonly table: HTMLElement;
  private legendKey = "";
  private shape = "";
  private values: HTMLElement[] = [];
  private size = { width: 0, height: 0 };
  private at: number | null = null;

  constructor(
    readonly panel: Panel,
    private readonly host: ChartHost,
  ) {
    this.box = h("div", { class: "plot" });
    this.cursor = h("div", { class: "cursor", hidden: true });
    this.brush = h("div", { class: "brush", hidden: true });
    this.none = h("p", { class: "nothing", hidden: true }, "Nothing was recorded for this in the time shown.");
    this.legend = h("div", { class: "legend" });
    this.table = h("div", {
      class: "table-scroll",
      tabindex: 0,
      role: "region",
      "aria-label": `Numbers of ${panel.title}`,
    });
    this.details = h(
      "details",
      { class: "numbers", on: { toggle: () => this.fillTable() } },
      h("summary", {}, "Numbers"),
      this.table,
    );
    const frame = h(
      "div",
      { class: "frame", tabindex: 0, role: "application", "aria-roledescription": "chart", "aria-label": panel.title },
      this.box,
      this.cursor,
      this.brush,
      this.none,
    );
    this.listen(frame);
    this.element = h(
      "figure",
      { class: panel.wide ? "chart wide" : "chart", id: panel.id },
      h("figcaption", {}, h("h3", {}, panel.title), this.tools()),
      this.legend,
      frame,
      this.details,
    );
  }

  private tools(): HTMLElement {
    const buttons = FORMS.map(([form, name]) =>
      h(
        "button",
        {
          type: "button",
          "aria-label": `Save ${this.panel.title} as ${name}`,
          on: {
            click: () => {
              if (this.model) this.host.save(this.panel, this.model, form);
              menu.open = false;
            },
          },
        },
        name,
      ),
    );
    const menu = h(
      "details",
      { class: "menu" },
      h("summary", { "aria-label": `Save ${this.panel.title}` }, "Save"),
      h("div", { class: "choices" }, ...buttons),
    );
    return menu;
  }

  /** What is shown has changed. Charts out of sight wait until they are seen. */
  invalidate(): void {
    this.stale = true;
    if (this.visible) this.draw();
  }

  setVisible(visible: boolean): void {
    this.visible = visible;
    if (visible && this.stale) this.draw();
  }

  /** Makes the model even when the chart is out of sight: for exports of the whole page. */
  build(scene: Scene): Model {
    return this.withoutHidden(this.panel.model(scene));
  }

  relook(): void {
    this.plot?.dispose();
    this.plot = null;
    this.shape = "";
    this.legendKey = "";
    this.invalidate();
  }

  resize(width: number, height: number): void {
    if (width === this.size.width && height === this.size.height) return;
    this.size = { width, height };
    this.plot?.resize({ width, height });
    this.stale = true;
    if (this.visible) this.draw();
  }

  get plotElement(): HTMLElement {
    return this.box;
  }

  private withoutHidden(model: Model): Model {
    if (model.kind !== "time" && model.kind !== "curve") return model;
    const shown = <T extends { name: string }>(list: T[]) =>
      list.filter((line) => !this.host.isHidden(this.panel.id, line.name));
    return model.kind === "time" ? { ...model, lines: shown(model.lines) } : { ...model, curves: shown(model.curves) };
  }

  private draw(): void {
    const scene = this.host.scene();
    if (!scene) return;
    if (this.size.width === 0) {
      this.size = { width: this.box.clientWidth, height: this.box.clientHeight };
      if (this.size.width === 0) return;
    }
    this.stale = false;
    const whole = this.panel.model(scene);
    this.model = this.withoutHidden(whole);
    const empty = isEmpty(whole);
    this.none.hidden = !empty;
    this.element.classList.toggle("empty", empty);
    const look = this.host.look();
    this.plot ??= init(this.box, null, { renderer: "svg", ...this.size });
    const option = optionOf(this.model, look, this.size);
    // as long as the same lines are shown, only their numbers are exchanged
    const shape = JSON.stringify([(option.series as { name: string }[]).map((one) => one.name), this.size]);
    this.plot.setOption(option, { notMerge: shape !== this.shape, silent: true });
    this.shape = shape;
    this.drawLegend(whole, look);
    this.point(this.at);
    this.element.querySelector(".frame")?.setAttribute("aria-label", describe(this.panel.title, this.model));
    if (this.details.open) this.fillTable();
  }

  /** Buttons that hide lines; behind each name its value at the cursor, or the latest. */
  private drawLegend(model: Model, look: Look): void {
    const lines =
      model.kind === "time"
        ? model.lines
        : model.kind === "curve"
          ? model.curves
          : model.kind === "bars"
            ? model.bars
            : [];
    const key = JSON.stringify([
      lines.map((line) => [nameOf(line), this.host.isHidden(this.panel.id, line.name)]),
      look.accent,
    ]);
    if (key === this.legendKey) return;
    this.legendKey = key;
    this.values = [];
    const entries = lines.map((line) => {
      const hidden = this.host.isHidden(this.panel.id, line.name);
      const value = h("span", { class: "value" });
      this.values.push(value);
      const dash = "second" in line && line.second ? [2, 4] : model.kind === "bars" ? "solid" : dashOf(line.style);
      const inner = [sample(colourOf(look, line.style), dash), h("span", { class: "name" }, nameOf(line)), value];
      if (model.kind === "bars") return h("span", { class: "entry" }, ...inner);
      return h(
        "button",
        {
          type: "button",
          class: "entry",
          "aria-pressed": String(!hidden),
          on: { click: () => this.host.toggle(this.panel.id, line.name) },
        },
        ...inner,
      );
    });
    this.legend.replaceChildren(...entries);
  }

  /** Shows the cursor at a time, and the values there. */
  point(time: number | null): void {
    this.at = time;
    const { model } = this;
    if (!model || (model.kind !== "time" && model.kind !== "heat")) return;
    const inside = time !== null && time >= model.from && time <= model.to;
    this.cursor.hidden = !inside;
    if (inside) this.cursor.style.transform = `translateX(${this.xOf(time).toFixed(1)}px)`;
    if (model.kind !== "time" || !this.visible) return;
    const when = inside ? time : model.to;
    const scene = this.host.scene();
    for (const value of this.values) {
      const name = value.previousSibling?.textContent;
      const line = model.lines.find((one) => nameOf(one) === name);
      value.textContent = line && scene ? format(valueAt(line, when), model.unit) : "";
    }
  }

  private xOf(time: number): number {
    const model = this.model as TimeModel;
    const inner = this.size.width - MARGIN.left - MARGIN.right;
    return MARGIN.left + ((time - model.from) / (model.to - model.from)) * inner;
  }

  private timeOf(x: number): number {
    const model = this.model as TimeModel;
    const inner = this.size.width - MARGIN.left - MARGIN.right;
    const share = Math.min(1, Math.max(0, (x - MARGIN.left) / inner));
    return model.from + share * (model.to - model.from);
  }

  private get overTime(): boolean {
    return this.model?.kind === "time" || this.model?.kind === "heat";
  }

  private listen(frame: HTMLElement): void {
    let start: number | null = null;
    const xOf = (event: PointerEvent) => event.clientX - frame.getBoundingClientRect().left;
    frame.addEventListener("pointermove", (event) => {
      if (!this.overTime) return;
      this.host.point(this.timeOf(xOf(event)));
      if (start !== null) this.showBrush(start, xOf(event));
    });
    frame.addEventListener("pointerleave", () => {
      if (start === null) this.host.point(null);
    });
    frame.addEventListener("pointerdown", (event) => {
      if (!this.overTime || event.button !== 0 || event.pointerType === "touch") return;
      start = xOf(event);
      frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointerup", (event) => {
      const from = start;
      start = null;
      this.brush.hidden = true;
      if (from === null || Math.abs(xOf(event) - from) < 6) return;
      const times = [this.timeOf(from), this.timeOf(xOf(event))].sort((a, b) => a - b);
      this.host.zoom(times[0] as number, times[1] as number);
    });
    frame.addEventListener("pointercancel", () => {
      start = null;
      this.brush.hidden = true;
    });
    frame.addEventListener("dblclick", () => this.host.widen());
    frame.addEventListener("keydown", (event) => this.onKey(event));
    frame.addEventListener("blur", () => {
      this.anchor = null;
      this.brush.hidden = true;
    });
  }

  private anchor: number | null = null;

  private showBrush(from: number, to: number): void {
    const left = Math.max(MARGIN.left, Math.min(from, to));
    const right = Math.min(this.size.width - MARGIN.right, Math.max(from, to));
    this.brush.hidden = right - left < 2;
    this.brush.style.left = `${left}px`;
    this.brush.style.width = `${Math.max(0, right - left)}px`;
  }

  /** Arrows move the cursor, with Shift they select; Enter zooms in, Escape and Backspace out. */
  private onKey(event: KeyboardEvent): void {
    const { model } = this;
    if (!model || (model.kind !== "time" && model.kind !== "heat")) return;
    const step = (model.to - model.from) / (event.ctrlKey ? 10 : 60);
    const here = this.at ?? model.to;
    const moves: Record<string, number> = {
      ArrowLeft: here - step,
      ArrowRight: here + step,
      Home: model.from,
      End: model.to,
    };
    const to = moves[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const time = Math.min(model.to, Math.max(model.from, to));
      if (event.shiftKey) this.anchor ??= here;
      else this.anchor = null;
      this.host.point(time);
      if (this.anchor === null) this.brush.hidden = true;
      else this.showBrush(this.xOf(this.anchor), this.xOf(time));
      this.host.say(this.inWords(time));
    } else if (event.key === "Enter" && this.anchor !== null && this.at !== null) {
      const times = [this.anchor, this.at].sort((a, b) => a - b);
      this.anchor = null;
      this.brush.hidden = true;
      this.host.zoom(times[0] as number, times[1] as number);
    } else if (event.key === "Escape" || event.key === "Backspace") {
      event.preventDefault();
      if (this.anchor === null) this.host.widen();
      this.anchor = null;
      this.brush.hidden = true;
    }
  }

  private inWords(time: number): string {
    const { model } = this;
    if (model?.kind !== "time") return clock(time);
    return `${clock(time)}: ${model.lines.map((line) => `${nameOf(line)} ${format(valueAt(line, time), model.unit)}`).join(", ")}`;
  }

  private fillTable(): void {
    if (!this.details.open || !this.model) return;
    const { columns, rows } = tableOf(this.model);
    const unit = unitOf(this.model);
    const curve = this.model.kind === "curve";
    const cell = (value: string | number, column: number) => {
      if (typeof value === "string") return column === 0 && value.includes("T") ? clock(Date.parse(value)) : value;
      if (column === 0 && curve) return `${Number((value * 100).toPrecision(8))} %`;
      return this.model?.kind === "heat" && columns[column] === "count" ? String(value) : format(value, unit);
    };
    const shown = rows.slice(-TABLE_ROWS);
    const notes = this.panel.metrics.map((metric) => this.host.helpOf(metric)).filter(Boolean);
    this.table.replaceChildren(
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name.replaceAll("_", " "))))),
        h(
          "tbody",
          {},
          ...shown.map((row) => h("tr", {}, ...row.map((value, column) => h("td", {}, cell(value, column))))),
        ),
      ),
      rows.length > shown.length
        ? h("p", {}, `The last ${shown.length} of ${rows.length} rows; Save as CSV has all.`)
        : "",
      ...notes.map((note) => h("p", { class: "note" }, note)),
    );
  }
}
