// Pictures of the page at three sizes, light and dark, with data, empty and broken, into test/results/: to be looked at.

import { mkdirSync } from "node:fs";
import { file } from "../generate.mjs";
import { browser, drawn, openPage, RESULTS, serve } from "./stand.mjs";

mkdirSync(RESULTS, { recursive: true });
const only = process.argv[2];
const lines = file({ seconds: 200 }).split("\n");
lines[150] = "{";
const stand = await serve({
  files: { "run.ndjson": file({ seconds: 600 }), "broken.ndjson": lines.join("\n") },
});
const chrome = await browser();
const heights = { 390: 844, 1280: 800, 2560: 1440 };
for (const width of [390, 1280, 2560]) {
  for (const colorScheme of ["light", "dark"]) {
    for (const [name, fragment] of [
      ["data", "#src=run.ndjson"],
      ["empty", ""],
      ["broken", "#src=broken.ndjson&src=nowhere.ndjson"],
    ]) {
      const title = `${name}-${width}-${colorScheme}`;
      if (only && !title.includes(only)) continue;
      const view = { viewport: { width, height: heights[width] }, colorScheme };
      const { page, context } = await openPage(chrome, stand.address + fragment, view);
      if (name === "empty") await page.waitForSelector("#welcome:not([hidden])");
      else await drawn(page);
      await page.waitForTimeout(300);
      await page.screenshot({ path: `${RESULTS}/${title}.png` });
      if (name === "data") {
        const height = await page.evaluate(() => document.documentElement.scrollHeight);
        await page.setViewportSize({ width, height: Math.min(height, 9000) });
        await page.waitForTimeout(1000);
        await page.screenshot({ path: `${RESULTS}/whole-${width}-${colorScheme}.png` });
      }
      await context.close();
    }
  }
}
await chrome.close();
await stand.close();
