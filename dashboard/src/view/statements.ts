// The table of statements: search, sort, and a statement's own charts when one is chosen.

import { format, type Unit } from "../format.ts";
import { h, sparkline } from "./dom.ts";
import type { Scene } from "./panel.ts";
import { type Column, type Row, sorted, statementRows } from "./statement.ts";

export interface StatementHost {
  sortBy(column: Column): void;
  search(text: string): void;
  choose(id: string | null): void;
}

interface Order {
  sort: string;
  descending: boolean;
  search: string;
  statement: string | null;
}

const COLUMNS: [Column, string, Unit | null][] = [
  ["text", "Statement", null],
  ["share", "Share of time", "ratio"],
  ["rate", "Calls", "rate"],
  ["mean", "Mean", "seconds"],
  ["p50", "p50", "seconds"],
  ["p99", "p99", "seconds"],
  ["queue", "Queue p99", "seconds"],
  ["rows", "Rows per call", "count"],
  ["errors", "Errors", "count"],
];
const ROWS_MAX = 50;

export class StatementView {
  readonly element: HTMLElement;
  rows: Row[] = [];
  private readonly input: HTMLInputElement;
  private readonly head = h("tr");
  private readonly body = h("tbody");
  private readonly count = h("p", { class: "note" });
  private readonly detail = h("div", { class: "detail" });
  private order: Order | null = null;
  private headKey = "";
  private all = false;

  constructor(private readonly host: StatementHost) {
    this.input = h("input", {
      type: "search",
      id: "statement-search",
      placeholder: "Words of the statement",
      "aria-label": "Search statements",
      on: { input: () => this.host.search(this.input.value) },
    });
    const region = h(
      "div",
      { class: "table-scroll statements", tabindex: 0, role: "region", "aria-label": "Statements" },
      h("table", {}, h("thead", {}, this.head), this.body),
    );
    this.element = h(
      "div",
      { class: "statement-view" },
      h("div", { class: "search" }, this.input, this.count),
      region,
      this.detail,
    );
  }

  /** Where the chosen statement's charts go. */
  get charts(): HTMLElement {
    return this.detail;
  }

  draw(scene: Scene, order: Order): void {
    this.order = order;
    if (document.activeElement !== this.input && this.input.value !== order.search) this.input.value = order.search;
    this.rows = sorted(statementRows(scene), order.sort, order.descending, order.search);
    this.drawHead(order);
    const limit = this.all ? this.rows.length : ROWS_MAX;
    const focused = (document.activeElement as HTMLElement | null)?.dataset.statement;
    this.body.replaceChildren(...this.rows.slice(0, limit).map((row) => this.row(row, order)));
    if (focused !== undefined)
      this.body.querySelector<HTMLElement>(`[data-statement="${CSS.escape(focused)}"]`)?.focus();
    const more = this.rows.length - limit;
    this.count.replaceChildren(
      this.rows.length === 0 ? "No statement in this time." : `${this.rows.length} statements`,
      more > 0
        ? h("button", { type: "button", class: "quiet", on: { click: () => this.showAll(scene) } }, `show ${more} more`)
        : "",
    );
  }

  /** The text of the chosen statement, whole. */
  drawChosen(text: string, id: string): void {
    this.detail.replaceChildren(
      h(
        "div",
        { class: "chosen" },
        h("h3", {}, "Statement ", h("code", {}, id)),
        h("button", { type: "button", on: { click: () => this.host.choose(null) } }, "Show all statements"),
      ),
      h("pre", {}, text),
    );
  }

  clearChosen(): void {
    this.detail.replaceChildren();
  }

  private showAll(scene: Scene): void {
    this.all = true;
    if (this.order) this.draw(scene, this.order);
  }

  private drawHead(order: Order): void {
    const key = `${order.sort} ${order.descending}`;
    if (key === this.headKey) return;
    this.headKey = key;
    const cells = COLUMNS.map(([column, name]) => {
      const current = order.sort === column;
      const arrow = current ? (order.descending ? " ↓" : " ↑") : "";
      return h(
        "th",
        {
          scope: "col",
          class: column,
          "aria-sort": current ? (order.descending ? "descending" : "ascending") : undefined,
        },
        h(
          "button",
          { type: "button", "data-column": column, on: { click: () => this.host.sortBy(column) } },
          `${name}${arrow}`,
        ),
      );
    });
    cells.splice(3, 0, h("th", { scope: "col" }, "Calls over time"));
    const focused = (document.activeElement as HTMLElement | null)?.dataset.column;
    this.head.replaceChildren(...cells);
    if (focused !== undefined) this.head.querySelector<HTMLElement>(`[data-column="${focused}"]`)?.focus();
  }

  private row(row: Row, order: Order): HTMLElement {
    const cells = COLUMNS.map(([column, , unit]) => {
      if (unit === null) {
        return h(
          "th",
          { scope: "row", class: "text" },
          h(
            "button",
            {
              type: "button",
              title: row.text.slice(0, 2000),
              "data-statement": row.id,
              "aria-pressed": String(order.statement === row.id),
              on: { click: () => this.host.choose(order.statement === row.id ? null : row.id) },
            },
            row.text,
          ),
        );
      }
      const value = format(row[column] as number, unit);
      if (column !== "share")
        return h("td", { class: column === "errors" && row.errors > 0 ? "errors some" : column }, value);
      const bar = h("span");
      bar.style.width = `${Math.round((Number.isFinite(row.share) ? row.share : 0) * 100)}%`;
      return h("td", { class: "share" }, h("span", { class: "bar-track", "aria-hidden": "true" }, bar), value);
    });
    cells.splice(3, 0, h("td", {}, sparkline(row.spark)));
    return h("tr", {}, ...cells);
  }
}
