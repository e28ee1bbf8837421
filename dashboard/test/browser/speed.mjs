// What it costs: the bundle, the first picture, a live second, a million points. The figures are printed and kept in
// test/results/measures.json, each against what is promised.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { file } from "../generate.mjs";
import { measure, ok, packed, test } from "./case.mjs";
import { DIST, drawn, openPage, serve } from "./stand.mjs";

test("the main bundle stays small, and PDFs are a bundle of their own", () => {
  const assets = readdirSync(join(DIST, "assets"));
  const main = assets
    .filter((name) => /^index-.*\.(js|css)$/.test(name))
    .reduce((sum, name) => sum + packed(join(DIST, "assets", name)), 0);
  measure("main bundle, gzip", main / 1000, "KB", 300);
  ok(
    assets.some((name) => name.startsWith("pdf-")),
    "there is a bundle of PDFs",
  );
});

test("the first picture of a live page comes at once", async (chrome) => {
  const stand = await serve({ live: { history: 300 } });
  const { page } = await openPage(chrome, null);
  const started = performance.now();
  await page.goto(stand.address);
  await drawn(page);
  measure("first useful picture, live, cold", performance.now() - started, "ms", 1500);
  await stand.close();
});

test("a live second costs little of the main thread", async (chrome) => {
  const stand = await serve({ live: { history: 900 }, every: 1000 });
  const { page } = await openPage(chrome, stand.address, { viewport: { width: 1280, height: 2600 } });
  await drawn(page);
  await page.waitForTimeout(1500);
  const session = await page.context().newCDPSession(page);
  // the thread's own time, so that what else the machine does is not counted
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  const read = async () => {
    const { metrics } = await session.send("Performance.getMetrics");
    const value = (name) => metrics.find((one) => one.name === name).value;
    return { task: value("TaskDuration"), time: performance.now() / 1000 };
  };
  const before = await read();
  await page.waitForTimeout(6000);
  const after = await read();
  const charts = await page.locator(".chart .plot svg").count();
  const seconds = after.time - before.time;
  console.log(`  ${charts} charts are drawn`);
  ok(charts >= 12, `${charts} charts are drawn`);
  measure(
    "main thread per live second of five minutes in 12 charts",
    ((after.task - before.task) / seconds) * 1000,
    "ms",
    150,
  );
  await stand.close();
});

test("a million points open and zoom fast", async (chrome) => {
  // 50 pools on 2 cores say about 1,000 values a second
  const pools = Array.from({ length: 50 }, (_, index) => [`db${index}`, "app"]);
  const text = file({ seconds: 980, pools, plain: true, trouble: [300, 360] });
  const points = text
    .split("\n")
    .filter((line) => line.startsWith('{"t"'))
    .reduce((sum, line) => sum + Object.keys(JSON.parse(line).v).length, 0);
  const stand = await serve({ files: { "million.ndjson": text } });
  const { page } = await openPage(chrome, stand.address);
  await page.waitForSelector("#welcome:not([hidden])");
  await page.fill("#address", "million.ndjson");
  const spent = await page.evaluate(async () => {
    const bytes = await (await fetch("million.ndjson")).arrayBuffer();
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "million.ndjson"));
    const started = performance.now();
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
    while (document.querySelectorAll(".chart .plot svg path").length < 8) await new Promise(requestAnimationFrame);
    return performance.now() - started;
  });
  console.log(`  ${points} points`);
  ok(points >= 1e6, `${points} points`);
  measure("opening a million points", spent, "ms", 1000);
  const zoom = await page.evaluate(async () => {
    const before = document.querySelector(".times").textContent;
    const started = performance.now();
    document.querySelector('[data-window="300"]').click();
    while (document.querySelector(".times").textContent === before) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - started;
  });
  measure("zooming into them", zoom, "ms", 500);
  await stand.close();
});

test("an error in the plane is soon on the screen", async (chrome) => {
  const stand = await serve({ live: { history: 60, trouble: [63, 600] }, every: 1000 });
  const { page } = await openPage(chrome, null);
  await page.addInitScript(() => {
    const { addEventListener } = EventSource.prototype;
    EventSource.prototype.addEventListener = function (name, listener) {
      addEventListener.call(this, name, (event) => {
        if (event.data?.startsWith('{"event":"error"')) window.arrived ??= performance.now();
        listener(event);
      });
    };
  });
  await page.goto(stand.address);
  await drawn(page);
  const spent = await page.evaluate(async () => {
    while (![...document.querySelectorAll(".alarms a")].some((one) => one.textContent.includes("class 53"))) {
      await new Promise(requestAnimationFrame);
    }
    return performance.now() - window.arrived;
  });
  ok(spent > 0, "the error came over the wire");
  measure("from an error on the wire to the mark on the screen", spent, "ms", 3000);
  await stand.close();
});
