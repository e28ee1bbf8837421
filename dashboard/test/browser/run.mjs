// The browser tests, one after the other: `node test/browser/run.mjs [word of their names]`. The last line counts them.

import { mkdirSync, writeFileSync } from "node:fs";
import { measures, tests } from "./case.mjs";
import { browser, RESULTS } from "./stand.mjs";
import "./view.mjs";
import "./source.mjs";
import "./save.mjs";
import "./shape.mjs";
import "./speed.mjs";

mkdirSync(RESULTS, { recursive: true });
const wanted = process.argv[2] ?? "";
const chrome = await browser();
let failed = 0;
let passed = 0;
for (const { name, body } of tests.filter((one) => one.name.includes(wanted))) {
  const started = performance.now();
  let timer;
  try {
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("it took longer than a minute")), 60_000);
    });
    await Promise.race([body(chrome), late]);
    passed++;
    console.log(`ok ${name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed++;
    console.log(`FAILED ${name}\n  ${error.stack ?? error}`);
  }
  clearTimeout(timer);
  for (const context of chrome.contexts()) await context.close();
}
await chrome.close();
writeFileSync(`${RESULTS}/measures.json`, `${JSON.stringify(measures, null, 2)}\n`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
