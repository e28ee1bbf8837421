// Saving: every form of one chart and of the page, looked into with other programs.

import { readFileSync } from "node:fs";
import { file } from "../generate.mjs";
import { clean, ok, run, same, saved, test } from "./case.mjs";
import { drawn, openPage, serve } from "./stand.mjs";

const POOLS = [
  ["заказы", "Ωμέγα"],
  ["app", "naïve ≤ Σ"],
];

async function withRun(chrome, body) {
  const stand = await serve({ files: { "run.ndjson": file({ seconds: 240, pools: POOLS, trouble: [100, 140] }) } });
  const { page, wrong } = await openPage(chrome, `${stand.address}#src=run.ndjson`);
  await drawn(page);
  await body(page);
  await clean(page, wrong);
  await stand.close();
}

async function saveChart(page, chart, form) {
  await page.locator(`#${chart} .menu summary`).click();
  return saved(page, () => page.locator(`#${chart} .choices button`, { hasText: new RegExp(`^${form}$`) }).click());
}

async function savePage(page, form) {
  await page.locator(".bar .menu summary").click();
  return saved(page, () => page.locator(".bar .choices button", { hasText: new RegExp(`^${form}$`) }).click());
}

/** Width and height of a PNG. */
function size(path) {
  const bytes = readFileSync(path);
  same(bytes.subarray(1, 4).toString(), "PNG", "the signature");
  return [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
}

const images = (path) => run("pdfimages", "-list", path).trim().split("\n").slice(2);

function judgePdf(path, words) {
  const text = run("pdftotext", "-layout", path, "-");
  for (const word of words) ok(text.includes(word), `the PDF has the text ${word}: ${text.slice(0, 600)}`);
  same(images(path), [], "pictures in the PDF");
  const fonts = run("pdffonts", path).trim().split("\n").slice(2);
  ok(
    fonts.length > 0 && fonts.every((line) => /DejaVu/.test(line) && /\byes\b/.test(line)),
    `its fonts are embedded: ${fonts}`,
  );
}

test("a chart is saved as PNG at twice its size, SVG, PDF with text, CSV and NDJSON", (chrome) =>
  withRun(chrome, async (page) => {
    const [width, height] = size(await saveChart(page, "waiting-clients", "PNG"));
    same(width, 2 * (760 + 56), "the width of the PNG");
    ok(height > 700, `its height is ${height}`);

    const svg = readFileSync(await saveChart(page, "waiting-clients", "SVG"), "utf8");
    ok(
      svg.includes("заказы / Ωμέγα") && svg.includes("<title>") && svg.includes('role="img"'),
      "the SVG has its texts and says what it is",
    );
    ok(!/ style="|<style|<script/.test(svg), "the SVG has no styles and no scripts");
    const parsed = await page.evaluate(
      (text) =>
        new DOMParser().parseFromString(text, "image/svg+xml").querySelector("parsererror")?.textContent ?? "fine",
      svg,
    );
    same(parsed, "fine", "the SVG is well-formed");

    judgePdf(await saveChart(page, "waiting-clients", "PDF"), ["заказы / Ωμέγα", "naïve ≤ Σ", "Clients waiting"]);

    const rows = readFileSync(await saveChart(page, "waiting-clients", "CSV"), "utf8")
      .trim()
      .split("\r\n");
    same(rows[0], "time,app / naïve ≤ Σ,заказы / Ωμέγα", "the head of the CSV");
    same(rows.length, 241, "rows of the CSV");
    const lines = readFileSync(await saveChart(page, "waiting-clients", "NDJSON"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    same(lines.length, 240, "lines of the NDJSON");
    ok(lines[110]["заказы / Ωμέγα"] > 0, "the waiting is in it");
  }));

test("heat map and percentile curve are saved as vectors too", (chrome) =>
  withRun(chrome, async (page) => {
    await page.locator("#latency-heat").scrollIntoViewIfNeeded();
    await page.waitForFunction(() => document.querySelectorAll("#latency-heat .plot path").length > 100);
    judgePdf(await saveChart(page, "latency-heat", "PDF"), ["How many took how long", "100 µs"]);
    judgePdf(await saveChart(page, "latency-curve", "PDF"), ["99.9 %", "pipe wait"]);
    same(size(await saveChart(page, "latency-heat", "PNG"))[0], 2 * (760 + 56), "the width of the PNG");
  }));

test("the page is saved as PNG, SVG, PDF of several pages, CSV and NDJSON", (chrome) =>
  withRun(chrome, async (page) => {
    const pdf = await savePage(page, "PDF");
    judgePdf(pdf, ["Is anyone waiting?", "Which statements?", "update pgbench_accounts", "заказы", "p99 of requests"]);
    const pages = Number(/Pages:\s+(\d+)/.exec(run("pdfinfo", pdf))[1]);
    ok(pages >= 2 && pages < 12, `${pages} pages`);
    ok(readFileSync(pdf).length < 1_500_000, "the PDF is not large");
    const [width, height] = size(await savePage(page, "PNG"));
    same(width, 2 * (1000 + 56), "the width of the PNG");
    ok(height > 5000, `its height is ${height}`);
    const svg = readFileSync(await savePage(page, "SVG"), "utf8");
    ok(svg.includes("&#60;script&#62;") && !svg.includes("<script"), "a statement's text is text");
    const csv = readFileSync(await savePage(page, "CSV"), "utf8");
    for (const name of ["waiting-clients", "latency-heat", "statements", "well"])
      ok(csv.includes(`\r\n${name},`), `${name} is in the CSV`);
    const lines = readFileSync(await savePage(page, "NDJSON"), "utf8")
      .trim()
      .split("\n");
    ok(lines.length > 10_000 && JSON.parse(lines[5000]).chart, "the NDJSON has the numbers of all charts");
  }));
