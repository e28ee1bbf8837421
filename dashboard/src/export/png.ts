// Blocks on a canvas of twice their size. Charts are drawn by ECharts onto canvases of their own: no image is loaded.

import { init } from "../chart/echarts.ts";
import { PAPER } from "../chart/look.ts";
import type { Model } from "../chart/model.ts";
import { optionOf } from "../chart/option.ts";
import { h } from "../view/dom.ts";
import { type Block, moved } from "./paper.ts";
import { MARGIN } from "./svg.ts";

export const SCALE = 2;
/** What browsers take as the longest side of a canvas. */
const SIDE_MAX = 16_000;
const FONT = `"${PAPER.font}", system-ui, sans-serif`;

function chartCanvas(model: Model, width: number, height: number): HTMLCanvasElement {
  const chart = init(h("div"), null, { renderer: "canvas", width, height, devicePixelRatio: SCALE });
  chart.setOption(optionOf(model, { ...PAPER, font: FONT }, { width, height }));
  const canvas = chart.renderToCanvas({ pixelRatio: SCALE });
  // the frame that ECharts has asked for still comes, and needs the chart
  window.setTimeout(() => chart.dispose(), 1000);
  return canvas;
}

export async function pngOf(blocks: Block[], width: number): Promise<Blob> {
  const height = blocks.reduce((sum, block) => sum + block.height, 0) + 2 * MARGIN;
  const scale = Math.min(SCALE, SIDE_MAX / height);
  const canvas = h("canvas");
  canvas.width = Math.round((width + 2 * MARGIN) * scale);
  canvas.height = Math.round(height * scale);
  const paper = canvas.getContext("2d");
  if (!paper) throw new Error("this browser gives no canvas to draw on");
  paper.scale(scale, scale);
  paper.fillStyle = PAPER.ground;
  paper.fillRect(0, 0, width + 2 * MARGIN, height);
  let y = MARGIN;
  for (const block of blocks) {
    for (const one of block.marks) {
      const mark = moved(one, MARGIN, y);
      switch (mark.kind) {
        case "text":
          paper.font = `${mark.size}px ${FONT}`;
          paper.fillStyle = mark.colour;
          paper.textAlign = mark.end ? "right" : "left";
          paper.fillText(mark.text, mark.x, mark.y);
          break;
        case "line":
          paper.beginPath();
          paper.strokeStyle = mark.colour;
          paper.lineWidth = mark.width;
          paper.setLineDash(mark.dash);
          paper.moveTo(mark.x1, mark.y1);
          paper.lineTo(mark.x2, mark.y2);
          paper.stroke();
          break;
        case "rect":
          paper.fillStyle = mark.colour;
          paper.fillRect(mark.x, mark.y, mark.width, mark.height);
          break;
        case "chart":
          paper.drawImage(chartCanvas(mark.model, mark.width, mark.height), mark.x, mark.y, mark.width, mark.height);
          break;
      }
    }
    y += block.height;
  }
  return new Promise((resolve, reject) => {
    canvas.toBlob(
      (blob) => (blob ? resolve(blob) : reject(new Error("the picture is too large for this browser"))),
      "image/png",
    );
  });
}
