// What goes onto paper: blocks of texts, lines and charts at their places. PNG, SVG and PDF draw the same blocks.

import { colourOf, dashOf, type Look, PAPER } from "../chart/look.ts";
import { isEmpty, type Model, nameOf, valueAt } from "../chart/model.ts";
import { format } from "../format.ts";
import type { Row } from "../view/statement.ts";
import type { Well } from "../view/well.ts";

export type Mark =
  | { kind: "text"; x: number; y: number; size: number; colour: string; text: string; end?: boolean }
  | { kind: "line"; x1: number; y1: number; x2: number; y2: number; colour: string; width: number; dash: number[] }
  | { kind: "rect"; x: number; y: number; width: number; height: number; colour: string }
  | { kind: "chart"; x: number; y: number; width: number; height: number; model: Model; title: string };

/** Marks that stay together on a page, with places from the block's upper left corner. */
export interface Block {
  height: number;
  marks: Mark[];
  /** Not left alone at the foot of a page. */
  heading?: boolean;
}

export type Item =
  | { kind: "well"; well: Well }
  | { kind: "heading"; text: string }
  | { kind: "chart"; title: string; id: string; wide: boolean; model: Model }
  | { kind: "statements"; rows: Row[] };

const TITLE = 15;
const TEXT = 11;
const SMALL = 10;
/** Width of a letter of the font, as a part of its size, on the safe side. */
const LETTER = 0.62;
const GAP = 24;

const widthOf = (text: string, size: number) => text.length * size * LETTER;

export function cut(text: string, width: number, size: number): string {
  const letters = Math.max(1, Math.floor(width / (size * LETTER)));
  const flat = text.replace(/\s+/g, " ");
  return flat.length <= letters ? flat : `${flat.slice(0, letters - 1)}…`;
}

export function head(title: string, subtitle: string, width: number): Block {
  return {
    height: 48,
    marks: [
      { kind: "text", x: 0, y: 16, size: TITLE, colour: PAPER.text, text: cut(title, width, TITLE) },
      { kind: "text", x: 0, y: 34, size: SMALL, colour: PAPER.muted, text: cut(subtitle, width, SMALL) },
    ],
  };
}

/** The legend of a chart, broken into lines; answers its marks and height. */
function legend(model: Model, look: Look, width: number): { marks: Mark[]; height: number } {
  const lines =
    model.kind === "time"
      ? model.lines
      : model.kind === "curve"
        ? model.curves
        : model.kind === "bars"
          ? model.bars
          : [];
  const marks: Mark[] = [];
  let x = 0;
  let y = 0;
  for (const line of lines) {
    const value = model.kind === "time" && "x" in line ? ` ${format(valueAt(line, model.to), model.unit)}` : "";
    const text = cut(`${nameOf(line)}${value}`, width - 40, SMALL);
    const room = 24 + widthOf(text, SMALL) + 14;
    if (x > 0 && x + room > width) {
      x = 0;
      y += 15;
    }
    const dash = "second" in line && line.second ? [2, 4] : model.kind === "bars" ? "solid" : dashOf(line.style);
    marks.push({
      kind: "line",
      x1: x,
      y1: y + 7,
      x2: x + 19,
      y2: y + 7,
      colour: colourOf(look, line.style),
      width: 2,
      dash: typeof dash === "string" ? [] : (dash as number[]),
    });
    marks.push({ kind: "text", x: x + 24, y: y + 10.5, size: SMALL, colour: look.text, text });
    x += room;
  }
  return { marks, height: marks.length === 0 ? 0 : y + 18 };
}

export function chartBlock(model: Model, title: string | null, x: number, width: number, height: number): Block {
  const top = title === null ? 0 : 20;
  const key = legend(model, PAPER, width);
  const marks: Mark[] = [];
  if (title !== null) marks.push({ kind: "text", x, y: 12, size: 12, colour: PAPER.text, text: cut(title, width, 12) });
  for (const mark of key.marks) marks.push(moved(mark, x, top));
  const y = top + key.height;
  if (isEmpty(model))
    marks.push({ kind: "text", x, y: y + 18, size: TEXT, colour: PAPER.muted, text: "Nothing was recorded." });
  else marks.push({ kind: "chart", x, y, width, height, model, title: title ?? "" });
  return { height: y + (isEmpty(model) ? 30 : height) + 16, marks };
}

export function moved(mark: Mark, x: number, y: number): Mark {
  if (mark.kind === "line") return { ...mark, x1: mark.x1 + x, x2: mark.x2 + x, y1: mark.y1 + y, y2: mark.y2 + y };
  return { ...mark, x: mark.x + x, y: mark.y + y };
}

function wellBlock(well: Well, width: number): Block {
  const marks: Mark[] = [];
  let y = 14;
  const words =
    well.alarms.length === 0
      ? ["Nothing needs a look."]
      : well.alarms.map((alarm) => `${alarm.level === "bad" ? "■" : "▲"} ${alarm.text}`);
  for (const text of words) {
    marks.push({ kind: "text", x: 0, y, size: TEXT, colour: PAPER.text, text: cut(text, width, TEXT) });
    y += 17;
  }
  y += 18;
  const column = width / Math.max(1, well.figures.length);
  well.figures.forEach((figure, index) => {
    const x = index * column;
    marks.push({ kind: "text", x, y, size: SMALL, colour: PAPER.muted, text: figure.title });
    marks.push({ kind: "text", x, y: y + 26, size: 22, colour: PAPER.text, text: format(figure.value, figure.unit) });
    marks.push({
      kind: "text",
      x,
      y: y + 44,
      size: SMALL,
      colour: PAPER.muted,
      text: cut(figure.goalText.replace(/\u2009/g, " "), column - 8, SMALL),
    });
  });
  return { height: y + 64, marks };
}

function statementBlocks(rows: Row[], width: number): Block[] {
  const numbers: [string, number, (row: Row) => string][] = [
    ["share", 60, (row) => format(row.share, "ratio")],
    ["calls", 90, (row) => format(row.rate, "rate")],
    ["mean", 70, (row) => format(row.mean, "seconds")],
    ["p99", 70, (row) => format(row.p99, "seconds")],
    ["errors", 60, (row) => format(row.errors, "count")],
  ];
  const text = width - numbers.reduce((sum, [, room]) => sum + room, 0) - 12;
  const line = (name: string, cells: string[], colour: string): Block => {
    let x = text + 12;
    const marks: Mark[] = [{ kind: "text", x: 0, y: 11, size: SMALL, colour, text: cut(name, text, SMALL) }];
    cells.forEach((cell, index) => {
      x += numbers[index]?.[1] ?? 0;
      marks.push({ kind: "text", x, y: 11, size: SMALL, colour, text: cell, end: true });
    });
    return { height: 16, marks };
  };
  const top = line(
    "statement",
    numbers.map(([name]) => name),
    PAPER.muted,
  );
  const body = rows.slice(0, 30).map((row) =>
    line(
      row.text,
      numbers.map(([, , cell]) => cell(row)),
      PAPER.text,
    ),
  );
  return rows.length === 0 ? [] : [{ ...top, heading: true }, ...body, { height: 12, marks: [] }];
}

/** The whole page as blocks, charts in two columns. */
export function pageBlocks(items: Item[], subtitle: string, width: number): Block[] {
  const blocks = [head("OptimaCore", subtitle, width)];
  const column = (width - GAP) / 2;
  let left: Block | null = null;
  const flush = () => {
    if (left) blocks.push(left);
    left = null;
  };
  for (const item of items) {
    if (item.kind === "chart" && isEmpty(item.model)) continue;
    if (item.kind === "chart" && !item.wide) {
      if (left === null) left = chartBlock(item.model, item.title, 0, column, 150);
      else {
        const before: Block = left;
        const right = chartBlock(item.model, item.title, column + GAP, column, 150);
        left = null;
        blocks.push({ height: Math.max(before.height, right.height), marks: [...before.marks, ...right.marks] });
      }
      continue;
    }
    flush();
    if (item.kind === "chart") blocks.push(chartBlock(item.model, item.title, 0, width, 170));
    else if (item.kind === "well") blocks.push(wellBlock(item.well, width));
    else if (item.kind === "statements") blocks.push(...statementBlocks(item.rows, width));
    else
      blocks.push({
        height: 34,
        heading: true,
        marks: [{ kind: "text", x: 0, y: 20, size: 14, colour: PAPER.text, text: item.text }],
      });
  }
  flush();
  // a question whose charts are all empty is left out
  return blocks.filter(
    (block, index) =>
      !(block.heading && block.height === 34 && (blocks[index + 1] === undefined || blocks[index + 1]?.height === 34)),
  );
}
