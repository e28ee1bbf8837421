// The dashboard of a real data plane: `node test/browser/real.mjs ADDRESS`, while clients send statements and one of them errors.

import { clean, ok } from "./case.mjs";
import { browser, drawn, openPage } from "./stand.mjs";

const chrome = await browser();
const { page, wrong } = await openPage(chrome, process.argv[2]);
await drawn(page);
const see = (what, condition) =>
  page.waitForFunction(condition, null, { timeout: 20_000 }).catch((error) => {
    throw new Error(`${what}: ${error.message}`);
  });
await see("the bar says live", () => document.querySelector(".source .state")?.textContent === "live");
await see("operations are counted", () =>
  /^[1-9]/.test(document.querySelector("#figure-operations .number")?.textContent ?? ""),
);
await see("p99 is known", () => / (µs|ms|s)$/.test(document.querySelector("#figure-p99 .number")?.textContent ?? ""));
await see("the division by zero is called out", () =>
  [...document.querySelectorAll(".alarms li")].some((one) => one.textContent.includes("class 22")),
);
await see("statements are in the table", () =>
  [...document.querySelectorAll(".statements tbody th")].some((one) => one.textContent.includes("dashboard_probe")),
);
await page.locator("#latency").scrollIntoViewIfNeeded();
await see("the server's time is drawn", () => document.querySelectorAll("#latency .plot svg path").length > 8);
const before = await page.locator(".times").innerText();
await page.waitForFunction((old) => document.querySelector(".times").textContent !== old, before);
await clean(page, wrong);
ok((await page.locator(".messages:not([hidden])").count()) === 0, "nothing could not be read");
await chrome.close();
console.log("1 passed, 0 failed");
