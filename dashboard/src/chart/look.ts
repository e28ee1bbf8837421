// Colours, dashes and letters of charts. The screen's come from the style sheet; exports always have the light ones.

export interface Look {
  text: string;
  muted: string;
  rule: string;
  ground: string;
  bad: string;
  accent: string;
  series: string[];
  heat: string[];
  font: string;
  size: number;
  width: number;
}

/** Dashes, so that lines differ without their colours too. */
export const DASHES: (string | number[])[] = [
  "solid",
  [7, 3],
  [2, 3],
  [9, 3, 2, 3],
  [4, 2],
  [12, 4],
  [1, 2],
  [6, 2, 1, 2, 1, 2],
];

export function dashOf(style: number): string | number[] {
  return DASHES[style % DASHES.length] ?? "solid";
}

export function colourOf(look: Look, style: number): string {
  return look.series[style % look.series.length] ?? look.text;
}

/** The font that PDFs embed and other exports ask for. */
export const PAPER_FONT = "DejaVu Sans";

export const PAPER: Look = {
  text: "#16191d",
  muted: "#565f69",
  rule: "#dfe2e5",
  ground: "#ffffff",
  bad: "#b42318",
  accent: "#1f56b3",
  series: ["#1f56b3", "#b45309", "#0f766e", "#7c3aed", "#be185d", "#4b5563", "#4d7c0f", "#0369a1"],
  heat: ["#dbe7f8", "#8fb4e8", "#3f78cc", "#1f56b3", "#0f2f6b"],
  font: PAPER_FONT,
  size: 11,
  width: 1.5,
};

/** What the style sheet says for the theme in force. */
export function screenLook(): Look {
  const style = getComputedStyle(document.documentElement);
  const read = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: read("text"),
    muted: read("muted"),
    rule: read("rule"),
    ground: read("ground"),
    bad: read("bad"),
    accent: read("accent"),
    series: Array.from({ length: 8 }, (_, index) => read(`series-${index + 1}`)),
    heat: Array.from({ length: 5 }, (_, index) => read(`heat-${index + 1}`)),
    font: style.fontFamily || "sans-serif",
    size: 12,
    width: Number(read("line-width")) || 1.5,
  };
}
