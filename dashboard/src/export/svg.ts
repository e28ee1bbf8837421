// Blocks as one SVG text. Styles are attributes, never style="": the page's security policy forbids those, and readers of SVG agree more on attributes.

import { init } from "../chart/echarts.ts";
import { type Look, PAPER } from "../chart/look.ts";
import { describe, type Model } from "../chart/model.ts";
import { optionOf } from "../chart/option.ts";
import { type Block, moved } from "./paper.ts";

export const MARGIN = 28;

export function escapeXml(text: string): string {
  return [...text]
    .filter((char) => char >= " " || char === "\n" || char === "\t")
    .map((char) => (/[&<>"']/.test(char) ? `&#${char.charCodeAt(0)};` : char))
    .join("");
}

/** One chart, without a document element of its own margins. */
export function chartSvg(model: Model, title: string, width: number, height: number, look: Look = PAPER): string {
  const chart = init(null, null, { renderer: "svg", ssr: true, width, height });
  chart.setOption(optionOf(model, look, { width, height }));
  const text = chart.renderToSVGString();
  chart.dispose();
  const plain = text
    .replace(/<\?xml[^>]*>|<!DOCTYPE[^>]*>/g, "")
    .replace(/ style="([^"]*)"/g, (_, style: string) => attributes(style))
    .replace(/<style[\s\S]*?<\/style>/g, "")
    .replace(/ (?:class="[^"]*"|xml:space="preserve")/g, "");
  const inside = `<title>${escapeXml(title)}</title><desc>${escapeXml(describe(title, model))}</desc>`;
  return plain.replace(
    /^\s*<svg([^>]*)>/,
    (_, given: string) => `<svg role="img" font-family="${look.font}" font-size="${look.size}"${given}>${inside}`,
  );
}

/** `a:b;c:d` as attributes; what SVG knows only as a style is left out. */
function attributes(style: string): string {
  const known = new Set([
    "font-size",
    "font-family",
    "font-weight",
    "font-style",
    "fill",
    "stroke",
    "text-anchor",
    "dominant-baseline",
    "opacity",
  ]);
  return style
    .split(";")
    .map((part) => {
      const at = part.indexOf(":");
      const name = part.slice(0, at).trim();
      return known.has(name) ? ` ${name}="${part.slice(at + 1).trim()}"` : "";
    })
    .join("");
}

export function svgOf(blocks: Block[], width: number): string {
  const height = blocks.reduce((sum, block) => sum + block.height, 0);
  const font = `font-family="${PAPER.font}, system-ui, sans-serif"`;
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="${width + 2 * MARGIN}" height="${height + 2 * MARGIN}" viewBox="0 0 ${width + 2 * MARGIN} ${height + 2 * MARGIN}" ${font}>`,
    `<rect width="100%" height="100%" fill="${PAPER.ground}"/>`,
  ];
  let y = MARGIN;
  for (const block of blocks) {
    for (const one of block.marks) {
      const mark = moved(one, MARGIN, y);
      switch (mark.kind) {
        case "text":
          out.push(
            `<text x="${mark.x}" y="${mark.y}" font-size="${mark.size}" fill="${mark.colour}"${mark.end ? ' text-anchor="end"' : ""}>${escapeXml(mark.text)}</text>`,
          );
          break;
        case "line":
          out.push(
            `<line x1="${mark.x1}" y1="${mark.y1}" x2="${mark.x2}" y2="${mark.y2}" stroke="${mark.colour}" stroke-width="${mark.width}"${mark.dash.length > 0 ? ` stroke-dasharray="${mark.dash.join(" ")}"` : ""}/>`,
          );
          break;
        case "rect":
          out.push(
            `<rect x="${mark.x}" y="${mark.y}" width="${mark.width}" height="${mark.height}" fill="${mark.colour}"/>`,
          );
          break;
        case "chart":
          out.push(
            chartSvg(mark.model, mark.title, mark.width, mark.height).replace(
              "<svg ",
              `<svg x="${mark.x}" y="${mark.y}" `,
            ),
          );
          break;
      }
    }
    y += block.height;
  }
  out.push("</svg>");
  return out.join("\n");
}
