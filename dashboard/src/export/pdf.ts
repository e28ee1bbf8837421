// Blocks as a PDF: vectors, text that can be selected, the font embedded. Loaded only when someone asks for it.

import { jsPDF } from "jspdf";
import { svg2pdf } from "svg2pdf.js";
import { PAPER_FONT } from "../chart/look.ts";
import { FONT } from "../generated/font.ts";
import { type Block, type Mark, moved } from "./paper.ts";
import { chartSvg, MARGIN } from "./svg.ts";

/** Points to a pixel. */
const POINT = 0.72;
const A4: [number, number] = [595.28, 841.89];

function begin(format: [number, number]): jsPDF {
  const [width, height] = format;
  const doc = new jsPDF({
    unit: "pt",
    format,
    orientation: width > height ? "landscape" : "portrait",
    compress: true,
    putOnlyUsedFonts: true,
  });
  doc.addFileToVFS("paper.ttf", FONT);
  doc.addFont("paper.ttf", PAPER_FONT, "normal");
  doc.setFont(PAPER_FONT, "normal");
  doc.setLanguage("en");
  return doc;
}

async function draw(doc: jsPDF, mark: Mark): Promise<void> {
  switch (mark.kind) {
    case "text":
      doc.setFont(PAPER_FONT, "normal");
      doc.setFontSize(mark.size * POINT);
      doc.setTextColor(mark.colour);
      doc.text(mark.text.replace(/\u2009/g, " "), mark.x * POINT, mark.y * POINT, {
        align: mark.end ? "right" : "left",
      });
      break;
    case "line":
      doc.setDrawColor(mark.colour);
      doc.setLineWidth(mark.width * POINT);
      doc.setLineDashPattern(
        mark.dash.map((length) => length * POINT),
        0,
      );
      doc.line(mark.x1 * POINT, mark.y1 * POINT, mark.x2 * POINT, mark.y2 * POINT);
      doc.setLineDashPattern([], 0);
      break;
    case "rect":
      doc.setFillColor(mark.colour);
      doc.rect(mark.x * POINT, mark.y * POINT, mark.width * POINT, mark.height * POINT, "F");
      break;
    case "chart": {
      const text = chartSvg(mark.model, mark.title, mark.width, mark.height).replace(/\u2009/g, " ");
      const parsed = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
      await svg2pdf(parsed, doc, {
        x: mark.x * POINT,
        y: mark.y * POINT,
        width: mark.width * POINT,
        height: mark.height * POINT,
      });
      break;
    }
  }
}

/** One page as large as what is on it. */
export async function chartPdf(blocks: Block[], width: number, title: string): Promise<Blob> {
  const height = blocks.reduce((sum, block) => sum + block.height, 0);
  const doc = begin([(width + 2 * MARGIN) * POINT, (height + 2 * MARGIN) * POINT]);
  doc.setProperties({ title, creator: "OptimaCore" });
  let y = MARGIN;
  for (const block of blocks) {
    for (const mark of block.marks) await draw(doc, moved(mark, MARGIN, y));
    y += block.height;
  }
  return doc.output("blob");
}

/** Width of the blocks of an A4 page. */
export const PAGE_WIDTH = A4[0] / POINT - 2 * MARGIN;

/** A4 pages; blocks are not torn, headings stay with what follows. */
export async function pagePdf(blocks: Block[], title: string): Promise<Blob> {
  const doc = begin(A4);
  doc.setProperties({ title, creator: "OptimaCore" });
  const bottom = A4[1] / POINT - MARGIN - 16;
  let y = MARGIN;
  let page = 1;
  for (const [index, block] of blocks.entries()) {
    const together = block.height + (block.heading ? (blocks[index + 1]?.height ?? 0) : 0);
    if (y + together > bottom && y > MARGIN) {
      doc.addPage();
      page++;
      y = MARGIN;
    }
    for (const mark of block.marks) await draw(doc, moved(mark, MARGIN, y));
    y += block.height;
  }
  for (let number = 1; number <= page; number++) {
    doc.setPage(number);
    await draw(doc, {
      kind: "text",
      x: A4[0] / POINT - MARGIN,
      y: A4[1] / POINT - MARGIN + 8,
      size: 9,
      colour: "#565f69",
      text: `${number} / ${page}`,
      end: true,
    });
  }
  return doc.output("blob");
}
