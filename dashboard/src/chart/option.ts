// From a model to what ECharts draws. Nothing here knows whether it is for the screen or for paper.

import type { EChartsCoreOption } from "echarts/core";
import { clock, day, seconds, short } from "../format.ts";
import { decimate } from "../store/decimate.ts";
import { colourOf, dashOf, type Look } from "./look.ts";
import type { BarModel, CurveModel, HeatModel, Limit, Model, TimeModel } from "./model.ts";
import { nameOf, position } from "./model.ts";

export interface Size {
  width: number;
  height: number;
}

/** Room for the labels around the plot; the same in all charts over time, so that their times stand below each other. */
export const MARGIN = { left: 58, right: 10, top: 18, bottom: 24 };

/** Most points of a line, whatever the width. */
const POINTS_MAX = 400;
/** Pixels to a point: more points than that are not told apart. */
const PIXELS = 1.6;

export function optionOf(model: Model, look: Look, size: Size): EChartsCoreOption {
  const base = {
    animation: false,
    textStyle: { fontFamily: look.font, fontSize: look.size, color: look.muted },
    grid: { ...MARGIN, containLabel: false, outerBoundsMode: "none" },
  };
  switch (model.kind) {
    case "time":
      return { ...base, ...timeOption(model, look, size) };
    case "heat":
      return { ...base, ...heatOption(model, look, size) };
    case "curve":
      return { ...base, ...curveOption(model, look) };
    case "bars":
      return { ...base, ...barOption(model, look) };
  }
}

function axisStyle(look: Look) {
  return {
    axisLine: { show: false },
    axisTick: { show: false },
    axisLabel: { color: look.muted, fontFamily: look.font, fontSize: look.size, textBorderWidth: 0, hideOverlap: true },
    splitLine: { show: true, lineStyle: { color: look.rule, width: 1 } },
  };
}

function timeOption(model: TimeModel, look: Look, size: Size): EChartsCoreOption {
  const span = model.to - model.from;
  const target = Math.min(POINTS_MAX, Math.max(40, Math.floor((size.width - MARGIN.left - MARGIN.right) / PIXELS)));
  const style = axisStyle(look);
  let highest = model.atLeast ?? 0;
  const series = model.lines.map((line) => {
    const from = Math.max(0, position(line.x, model.from) - 1);
    const to = Math.min(line.x.length, position(line.x, model.to) + 1);
    const { x, y } = decimate(slice(line.x, from, to), slice(line.y, from, to), target);
    const data = x.map((time, index) => {
      const value = y[index] as number;
      if (value > highest) highest = value;
      return [time, Number.isFinite(value) ? value : null];
    });
    return {
      type: "line",
      name: nameOf(line),
      data,
      silent: true,
      symbol: "circle",
      symbolSize: 4,
      showSymbol: data.length < 3,
      color: colourOf(look, line.style),
      lineStyle: {
        width: line.second ? look.width * 0.8 : look.width,
        type: line.second ? [2, 4] : dashOf(line.style),
        opacity: line.second ? 0.75 : 1,
      },
    };
  });
  const marks = markLines(model.limits, look, highest, size);
  for (const event of model.events) {
    marks.push({
      xAxis: event.t,
      lineStyle: { color: look.muted, type: [3, 3], width: 1 },
      label: {
        show: size.width > 300,
        formatter: event.event,
        position: "end",
        distance: 4,
        rotate: 0,
        ...markText(look),
      },
    });
  }
  return {
    xAxis: {
      type: "time",
      min: model.from,
      max: model.to,
      splitNumber: Math.max(2, Math.floor(size.width / 130)),
      ...style,
      splitLine: { show: false },
      axisLine: { show: true, lineStyle: { color: look.rule } },
      axisLabel: {
        ...style.axisLabel,
        formatter: (time: number) => timeLabel(time, span),
        alignMinLabel: "left",
        alignMaxLabel: "right",
      },
    },
    yAxis: {
      type: "value",
      min: 0,
      ...scale(highest, size.height < 150 ? 2 : 4),
      ...style,
      axisLabel: { ...style.axisLabel, formatter: (value: number) => short(value, model.unit) },
    },
    series: withMarks(series, marks),
  };
}

function slice(values: ArrayLike<number>, from: number, to: number): ArrayLike<number> {
  return ArrayBuffer.isView(values)
    ? (values as Float64Array).subarray(from, to)
    : (values as number[]).slice(from, to);
}

function markText(look: Look) {
  return { color: look.muted, fontFamily: look.font, fontSize: look.size - 1, textBorderWidth: 0 };
}

interface Mark {
  xAxis?: number;
  yAxis?: number;
  lineStyle: object;
  label: object;
}

/** Lines at limits, where they lie within what is shown or near it. */
function markLines(limits: Limit[], look: Look, highest: number, size: Size): Mark[] {
  return limits
    .filter((limit) => limit.value <= Math.max(highest * 1.5, highest))
    .map((limit, index) => ({
      yAxis: limit.value,
      lineStyle: { color: look.bad, type: [5, 4], width: 1 },
      label: {
        show: size.width > 240,
        formatter: limit.label,
        position: index === 0 && limits.length > 1 ? "insideEndBottom" : "insideEndTop",
        ...markText(look),
        color: look.bad,
      },
    }));
}

function withMarks(series: object[], marks: Mark[]): object[] {
  if (marks.length === 0) return series;
  const carrier = { type: "line", name: "", data: [], silent: true };
  return [...series, { ...carrier, markLine: { silent: true, symbol: "none", animation: false, data: marks } }];
}

/** A scale from 0 in even, round steps, that ends at or above the highest value. */
export function scale(highest: number, steps: number): { max: number; interval: number } {
  if (!(highest > 0)) return { max: 1, interval: 1 };
  const wanted = highest / steps;
  const unit = 10 ** Math.floor(Math.log10(wanted));
  const step = ([1, 2, 2.5, 5, 10].find((factor) => factor * unit >= wanted * 0.999) ?? 10) * unit;
  return { max: Number((Math.ceil(highest / step - 0.001) * step).toPrecision(12)), interval: step };
}

function timeLabel(time: number, span: number): string {
  if (span > 48 * 3600_000) return day(time).slice(5);
  const text = clock(time);
  return span > 20 * 60_000 ? text.slice(0, 5) : text;
}

function heatOption(model: HeatModel, look: Look, size: Size): EChartsCoreOption {
  const style = axisStyle(look);
  const highest = model.cells.reduce((max, cell) => Math.max(max, cell[2]), 1);
  const span = model.to - model.from;
  const every = Math.max(1, Math.round(model.columns.length / Math.max(2, Math.floor(size.width / 110))));
  const few = model.rows.length * 14 < size.height * 1.2;
  return {
    xAxis: {
      type: "category",
      data: model.columns,
      ...style,
      splitLine: { show: false },
      axisLabel: {
        ...style.axisLabel,
        interval: (index: number) => index % every === 0,
        formatter: (time: string) => timeLabel(Number(time), span),
      },
    },
    yAxis: {
      type: "category",
      data: model.rows,
      ...style,
      splitLine: { show: false },
      axisLabel: {
        ...style.axisLabel,
        interval: (index: number) => (few ? [1, 2, 5] : [1]).includes(leading(model.rows[index] as number)),
        formatter: (value: string) => seconds(Number(value)),
      },
    },
    visualMap: {
      show: false,
      type: "continuous",
      min: 0,
      max: weight(highest),
      dimension: 2,
      inRange: { color: look.heat },
    },
    series: [
      {
        type: "heatmap",
        progressive: 0,
        silent: true,
        data: model.cells.map(([column, row, count]) => [column, row, weight(count)]),
        itemStyle: { borderWidth: 0 },
        emphasis: { disabled: true },
      },
    ],
  };
}

/** Few are seen beside many: the eye gets a root of the count. */
function weight(count: number): number {
  return count ** 0.4;
}

/** The first digit of a number. */
function leading(value: number): number {
  return Math.round((value / 10 ** Math.floor(Math.log10(value) + 1e-9)) * 10) / 10;
}

/** 1/(1-q): every step to the right has a tenth of the requests beyond it. */
function tail(share: number): number {
  return 1 / (1 - share);
}

function shareLabel(value: number): string {
  if (value <= 1) return "0 %";
  return `${Number(((1 - 1 / value) * 100).toPrecision(8))} %`;
}

function curveOption(model: CurveModel, look: Look): EChartsCoreOption {
  const style = axisStyle(look);
  let furthest = 100;
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  const series = model.curves.map((curve) => {
    const data = curve.shares.map((share, index) => {
      const value = Math.max(1e-6, curve.values[index] as number);
      const x = tail(share);
      furthest = Math.max(furthest, x);
      low = Math.min(low, value);
      high = Math.max(high, value);
      return [x, value];
    });
    return {
      type: "line",
      name: nameOf(curve),
      data,
      silent: true,
      showSymbol: false,
      color: colourOf(look, curve.style),
      lineStyle: {
        width: look.width,
        type: curve.second ? [2, 4] : dashOf(curve.style),
        opacity: curve.second ? 0.75 : 1,
      },
    };
  });
  const floor = Number.isFinite(low) ? 10 ** Math.floor(Math.log10(low)) : 1e-6;
  const limits = model.limits.filter((limit) => limit.value >= floor && limit.value <= high * 10);
  const marks = markLines(limits, look, high * 10, { width: 400, height: 300 });
  return {
    xAxis: {
      type: "log",
      logBase: 10,
      min: 1,
      max: 10 ** Math.ceil(Math.log10(furthest) - 1e-9),
      ...style,
      axisLine: { show: true, lineStyle: { color: look.rule } },
      axisLabel: { ...style.axisLabel, formatter: shareLabel, alignMinLabel: "left", alignMaxLabel: "right" },
    },
    yAxis: {
      type: "log",
      logBase: 10,
      min: floor,
      max: 10 ** Math.ceil(Math.log10(Math.max(high, floor * 10))),
      ...style,
      axisLabel: { ...style.axisLabel, formatter: (value: number) => seconds(value) },
    },
    series: withMarks(series, marks),
  };
}

function barOption(model: BarModel, look: Look): EChartsCoreOption {
  const style = axisStyle(look);
  return {
    xAxis: { type: "category", data: model.groups, ...style, splitLine: { show: false } },
    yAxis: {
      type: "value",
      min: 0,
      splitNumber: 3,
      ...style,
      axisLabel: { ...style.axisLabel, formatter: (value: number) => short(value, model.unit) },
    },
    series: model.bars.map((bar) => ({
      type: "bar",
      name: bar.name,
      data: bar.values,
      silent: true,
      barMaxWidth: 28,
      color: colourOf(look, bar.style),
      ...(bar.style % 2 === 1
        ? {
            itemStyle: {
              decal: { symbol: "rect", dashArrayX: [1, 0], dashArrayY: [3, 3], rotation: -0.7, color: look.ground },
            },
          }
        : {}),
    })),
  };
}
