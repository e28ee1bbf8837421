// Saving what is shown, as PNG, SVG, PDF, CSV or NDJSON.

import { type Model, type Table, tableOf } from "../chart/model.ts";
import type { ExportForm } from "../view/chart.ts";
import { download } from "../view/dom.ts";
import { type Block, chartBlock, head, type Item, pageBlocks } from "./paper.ts";
import { pngOf } from "./png.ts";
import { svgOf } from "./svg.ts";

const CHART_WIDTH = 760;
const CHART_HEIGHT = 320;
const PAGE_WIDTH = 1000;

function cell(value: string | number): string {
  const text = String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function csvOf(table: Table): string {
  return `${[table.columns, ...table.rows].map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}

export function ndjsonOf(table: Table, more: Record<string, unknown> = {}): string {
  return table.rows
    .map((row) => {
      const entries = table.columns.map((column, index): [string, unknown] => [
        column,
        row[index] === "" ? null : row[index],
      ]);
      return `${JSON.stringify({ ...more, ...Object.fromEntries(entries) })}\n`;
    })
    .join("");
}

const text = (content: string, type: string) => new Blob([content], { type: `${type};charset=utf-8` });

export async function save(title: string, id: string, model: Model, form: ExportForm, subtitle: string): Promise<void> {
  const name = `optimacore-${id}.${form}`;
  if (form === "csv") return download(name, text(csvOf(tableOf(model)), "text/csv"));
  if (form === "ndjson") return download(name, text(ndjsonOf(tableOf(model), { chart: id }), "application/x-ndjson"));
  const blocks = [head(title, subtitle, CHART_WIDTH), chartBlock(model, null, 0, CHART_WIDTH, CHART_HEIGHT)];
  if (form === "pdf") {
    const { chartPdf } = await import("./pdf.ts");
    return download(name, await chartPdf(blocks, CHART_WIDTH, title));
  }
  return picture(name, form, blocks, CHART_WIDTH);
}

async function picture(name: string, form: ExportForm, blocks: Block[], width: number): Promise<void> {
  if (form === "svg") download(name, text(svgOf(blocks, width), "image/svg+xml"));
  else download(name, await pngOf(blocks, width));
}

/** Every number of the page in one table: chart, where in the chart, line, value. */
function pageTable(items: Item[]): Table {
  const rows: (string | number)[][] = [];
  for (const item of items) {
    if (item.kind === "well") {
      for (const figure of item.well.figures)
        rows.push(["well", "", figure.title, Number.isFinite(figure.value) ? figure.value : ""]);
    } else if (item.kind === "chart") {
      const { columns, rows: inside } = tableOf(item.model);
      for (const row of inside) {
        for (let column = 1; column < columns.length; column++) {
          if (row[column] !== "")
            rows.push([item.id, row[0] as string | number, columns[column] as string, row[column] as string | number]);
        }
      }
    } else if (item.kind === "statements") {
      for (const row of item.rows) {
        for (const key of ["calls", "time", "share", "mean", "p50", "p99", "queue", "rows", "errors"] as const) {
          if (Number.isFinite(row[key])) rows.push(["statements", row.text, key, row[key]]);
        }
      }
    }
  }
  return { columns: ["chart", "at", "line", "value"], rows };
}

export async function savePage(items: Item[], form: ExportForm, subtitle: string): Promise<void> {
  const name = `optimacore.${form}`;
  if (form === "csv") return download(name, text(csvOf(pageTable(items)), "text/csv"));
  if (form === "ndjson") return download(name, text(ndjsonOf(pageTable(items)), "application/x-ndjson"));
  if (form === "pdf") {
    const { pagePdf, PAGE_WIDTH: width } = await import("./pdf.ts");
    return download(name, await pagePdf(pageBlocks(items, subtitle, width), "OptimaCore"));
  }
  return picture(name, form, pageBlocks(items, subtitle, PAGE_WIDTH), PAGE_WIDTH);
}
