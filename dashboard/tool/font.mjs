// Makes the font that PDFs embed: DejaVu Sans, cut to Latin, Greek, Cyrillic, punctuation, arrows and the signs of mathematics.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import subsetFont from "subset-font";

const RANGES = [
  [0x20, 0x7e],
  [0xa0, 0x17f],
  [0x218, 0x21b],
  [0x370, 0x3ff],
  [0x400, 0x45f],
  [0x490, 0x491],
  [0x2010, 0x2027],
  [0x2030, 0x203a],
  [0x2070, 0x208e],
  [0x20ac, 0x20ac],
  [0x2122, 0x2122],
  [0x2190, 0x2195],
  [0x2200, 0x221e],
  [0x2248, 0x2265],
  [0x25a0, 0x25cf],
  [0x2713, 0x2717],
];

const text = RANGES.flatMap(([from, to]) =>
  Array.from({ length: to - from + 1 }, (_, index) => String.fromCodePoint(from + index)),
).join("");
const source = createRequire(import.meta.url).resolve("dejavu-fonts-ttf/ttf/DejaVuSans.ttf");
const font = await subsetFont(readFileSync(source), text, { targetFormat: "truetype" });
const folder = fileURLToPath(new URL("../src/generated/", import.meta.url));
mkdirSync(folder, { recursive: true });
const out = `${folder}font.ts`;
writeFileSync(
  out,
  `// Made by tool/font.mjs from DejaVu Sans (free licence, see the package dejavu-fonts-ttf).\nexport const FONT = "${Buffer.from(font).toString("base64")}";\n`,
);
console.log(`font: ${font.length} bytes`);
