// Pictures of the page at three sizes, light and dark, with data, empty and broken: to be looked at.

import { mkdirSync } from "node:fs";
import { file } from "../generate.mjs";
import { browser, drawn, openPage, RESULTS, serve } from "./stand.mjs";

mkdirSync(RESULTS, { recursive: true });
const only = process.argv[2];
const stand = await serve({ live: { history: 420 }, files: { "run.ndjson": file({ seconds: 600 }) } });
const chrome = await browser();
for (const width of [390, 1280, 2560]) {
  for (const scheme of ["light", "dark"]) {
    if (only && only !== `${width}-${scheme}`) continue;
    const view = {
      viewport: { width, height: width === 390 ? 844 : width === 1280 ? 800 : 1440 },
      colorScheme: scheme,
    };
    const { page, context, wrong } = await openPage(chrome, `${stand.address}#src=run.ndjson`, view);
    await drawn(page);
    await page.waitForTimeout(300);
    await page.screenshot({ path: `${RESULTS}/data-${width}-${scheme}.png` });
    const height = await page.evaluate(() => document.documentElement.scrollHeight);
    await page.setViewportSize({ width, height: Math.min(height, 9000) });
    await page.waitForTimeout(900);
    await page.screenshot({ path: `${RESULTS}/whole-${width}-${scheme}.png` });
    for (const id of [
      "well",
      "waiting",
      "pools",
      "latency",
      "throughput",
      "errors",
      "statements",
      "balance",
      "pins",
      "host",
    ]) {
      if (only) await page.locator(`#${id}`).screenshot({ path: `${RESULTS}/${id}-${width}-${scheme}.png` });
    }
    console.log(width, scheme, height, wrong.join("\n"), await page.evaluate(() => window.refused.join("\n")));
    await context.close();
  }
}
await chrome.close();
await stand.close();
