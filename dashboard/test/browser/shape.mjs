// Sizes, accessibility, and the pictures of docs/.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { file } from "../generate.mjs";
import { ok, same, test } from "./case.mjs";
import { drawn, openPage, RESULTS, ROOT, serve } from "./stand.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const RUN = file({ seconds: 400 });

/** Rules that axe finds broken, with one place each. */
async function broken(page, within = "body") {
  if (!(await page.evaluate(() => window.axe))) await page.evaluate(AXE);
  return page.evaluate(
    async ([tags, place]) => {
      const result = await window.axe.run(document.querySelector(place), { runOnly: tags });
      return result.violations.map(
        (one) => `${one.id}: ${one.nodes[0]?.html.slice(0, 160)} ${one.nodes[0]?.failureSummary}`,
      );
    },
    [TAGS, within],
  );
}

for (const [theme, scheme] of [
  ["light", "light"],
  ["dark", "dark"],
  ["contrast", "light"],
  ["contrast", "dark"],
]) {
  test(`axe finds nothing: ${theme} theme, system ${scheme}`, async (chrome) => {
    const stand = await serve({
      files: { "run.ndjson": file({ seconds: 60 }), "other.ndjson": file({ seconds: 60, seed: 5 }) },
    });
    const { page } = await openPage(chrome, `${stand.address}#src=run.ndjson&src=other.ndjson&theme=${theme}`, {
      colorScheme: scheme,
      bypassCSP: true,
    });
    await drawn(page);
    await page.locator("#waiting-clients").scrollIntoViewIfNeeded();
    await page.locator("#waiting-clients .entry").first().waitFor();
    await page.locator("#waiting-clients .numbers summary").click();
    await page.locator(".statements tbody button").first().click();
    same(await broken(page), [], "violations");
    await page.locator(".bar .menu summary").click();
    same(await broken(page, ".bar .choices"), [], "violations of the menu");
    await stand.close();
  });
}

test("axe finds nothing on the empty page and on the one that complains", async (chrome) => {
  const stand = await serve();
  const { page } = await openPage(chrome, stand.address, { bypassCSP: true });
  await page.waitForSelector("#welcome:not([hidden])");
  same(await broken(page), [], "violations of the empty page");
  await page.fill("#address", "nowhere");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".messages:not([hidden])");
  same(await broken(page), [], "violations of the complaining page");
  await stand.close();
});

for (const [width, height] of [
  [390, 844],
  [1280, 800],
  [2560, 1440],
]) {
  test(`the page fits ${width} pixels, and its controls fit fingers`, async (chrome) => {
    const stand = await serve({ files: { "run.ndjson": RUN } });
    const { page } = await openPage(chrome, `${stand.address}#src=run.ndjson`, { viewport: { width, height } });
    await drawn(page);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    ok(wide <= width, `the page is ${wide} pixels wide`);
    const small = await page.evaluate(() =>
      [...document.querySelectorAll("button, summary, select, input")]
        .filter((one) => one.checkVisibility())
        .map((one) => [one.getBoundingClientRect(), one])
        .filter(([box]) => box.width > 0 && (box.width < 24 || box.height < 24))
        .map(([box, one]) => `${one.textContent.slice(0, 30)} ${box.width}x${box.height}`),
    );
    same(small, [], "controls smaller than 24 pixels");
    await stand.close();
  });
}

/** The pictures of docs/dashboard.md: small ones, of views with something to see. */
test("the pictures of the documentation are made", async (chrome) => {
  const stand = await serve({
    files: {
      "run.ndjson": file({ seconds: 600 }),
      "other.ndjson": file({ seconds: 600, seed: 2, slow: 1.6, name: "db-plane-2" }),
    },
  });
  const folder = process.env.OPTIMACORE_PICTURES ? join(ROOT, "..", "docs", "pictures") : RESULTS;
  const shoot = async (address, name, options, clip) => {
    const { page, context } = await openPage(chrome, `${stand.address}#${address}`, {
      reducedMotion: "reduce",
      ...options,
    });
    await drawn(page);
    if (clip) await page.locator(clip).evaluate((section) => section.scrollIntoView({ block: "start" }));
    await page.waitForTimeout(400);
    const path = `${folder}/${name}.png`;
    const box = clip ? await page.locator(clip).boundingBox() : null;
    if (box)
      await page.screenshot({ path, clip: { ...box, height: Math.min(box.height, clip === "#compare" ? 380 : 540) } });
    else await page.screenshot({ path });
    const bytes = readFileSync(path).length;
    ok(bytes < 100_000, `${name}.png has ${bytes} bytes`);
    await context.close();
  };
  const view = { viewport: { width: 1120, height: 720 } };
  await shoot("src=run.ndjson", "dashboard-light", view);
  await shoot("src=run.ndjson", "dashboard-dark", { ...view, colorScheme: "dark" });
  await shoot("src=run.ndjson", "dashboard-phone", { viewport: { width: 390, height: 780 } });
  await shoot("src=run.ndjson", "dashboard-statements", view, "#statements");
  await shoot("src=run.ndjson", "dashboard-pools", view, "#pools");
  await shoot("src=run.ndjson&src=other.ndjson", "dashboard-compare", view, "#compare");
  await stand.close();
});
