// Where data comes from: the live stream, files that are dropped or picked, the page itself.

import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { file } from "../generate.mjs";
import { clean, ok, same, saved, test } from "./case.mjs";
import { drawn, openPage, RESULTS, SINGLE, serve } from "./stand.mjs";

const times = (page) => page.locator(".times").innerText();

test("the live stream is followed, paused, resumed, and taken up again after a break", async (chrome) => {
  const stand = await serve({ live: { history: 90 }, every: 250 });
  const { page, wrong } = await openPage(chrome, stand.address);
  await drawn(page);
  same(await page.locator(".source .state").innerText(), "live", "the bar says live");
  const before = await times(page);
  await page.waitForFunction((old) => document.querySelector(".times").textContent !== old, before);
  await page.keyboard.press("p");
  await page.waitForFunction(() => document.querySelector(".source .state").textContent === "paused");
  const held = await times(page);
  await page.waitForTimeout(900);
  same(await times(page), held, "the time stands while paused");
  ok(page.url().includes("paused="), "the link keeps the moment");
  await page.locator(".pause").click();
  await page.waitForFunction((old) => document.querySelector(".times").textContent !== old, held);
  stand.cut();
  await page.waitForFunction(() => document.querySelector(".source .state").textContent === "no answer", null, {
    timeout: 10_000,
  });
  ok(
    (await page.locator(".alarms li").first().innerText()).includes("the live stream is silent"),
    "the silence is called out",
  );
  await page.waitForFunction(() => document.querySelector(".source .state").textContent === "live", null, {
    timeout: 15_000,
  });
  await clean(
    page,
    wrong.filter((line) => !line.includes("ERR_INCOMPLETE_CHUNKED_ENCODING")),
  );
  await stand.close();
});

test("without a data plane and without files the page says how to begin", async (chrome) => {
  const stand = await serve();
  const { page, wrong } = await openPage(chrome, stand.address);
  await page.waitForSelector("#welcome h2");
  same(await page.locator("#welcome h2").innerText(), "Open a run", "the title");
  ok(await page.locator("#main").isHidden(), "no empty charts");
  await clean(
    page,
    wrong.filter((line) => !line.includes("404")),
  );
  await stand.close();
});

async function drop(page, files) {
  const data = await page.evaluateHandle(
    (list) => {
      const transfer = new DataTransfer();
      for (const { name, base64 } of list) {
        transfer.items.add(new File([Uint8Array.from(atob(base64), (char) => char.charCodeAt(0))], name));
      }
      return transfer;
    },
    files.map(({ name, content }) => ({ name, base64: Buffer.from(content).toString("base64") })),
  );
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
}

test("files are dropped and picked, several at once, packed or not", async (chrome) => {
  const stand = await serve();
  const { page } = await openPage(chrome, stand.address);
  await page.waitForSelector("#welcome:not([hidden])");
  await drop(page, [{ name: "a.ndjson.gz", content: gzipSync(file({ seconds: 120 })) }]);
  await drawn(page);
  ok((await page.locator(".source").innerText()).includes("a.ndjson.gz"), "the bar names the file");
  const [chooser] = await Promise.all([
    page.waitForEvent("filechooser"),
    page.locator(".actions button", { hasText: "Open" }).click(),
  ]);
  await chooser.setFiles([{ name: "b.ndjson", mimeType: "", buffer: Buffer.from(file({ seconds: 120, seed: 9 })) }]);
  await page.waitForFunction(() => !document.querySelector("#compare").hidden);
  same(
    await page.locator("#choice-run option").allInnerTexts(),
    ["a.ndjson.gz", "b.ndjson"],
    "both runs can be chosen",
  );
  same(await page.evaluate(() => window.refused), [], "what the security policy refused");
  await stand.close();
});

test("a broken and a foreign file are named with line and reason, and what can be read is shown", async (chrome) => {
  const stand = await serve();
  const { page } = await openPage(chrome, stand.address);
  await page.waitForSelector("#welcome:not([hidden])");
  const lines = file({ seconds: 60 }).split("\n");
  lines[200] = '{"t":12,"dt":';
  lines.splice(210, 0, "<html>not a line</html>");
  await drop(page, [
    { name: "broken.ndjson", content: lines.join("\n") },
    { name: "holiday.jpg", content: Buffer.from([0xff, 0xd8, 0xff, 0xe0, 1, 2, 3]) },
  ]);
  await drawn(page);
  const message = await page.locator(".messages").innerText();
  ok(message.includes("broken.ndjson, line 201: it is cut off or no JSON"), message);
  ok(message.includes("broken.ndjson, line 211: it is no JSON"), message);
  ok(message.includes("holiday.jpg, line 1: holiday.jpg is none of the files that OptimaCore writes"), message);
  await page.locator(".messages button").click();
  ok(await page.locator(".messages").isHidden(), "the message is put away");
  await stand.close();
});

test("an address that cannot be fetched is named", async (chrome) => {
  const stand = await serve();
  const { page } = await openPage(chrome, `${stand.address}#src=nowhere.ndjson`);
  await page.waitForSelector(".messages:not([hidden])");
  ok(
    (await page.locator(".messages").innerText()).includes(
      "nowhere.ndjson: it cannot be fetched: the server answers 404",
    ),
    "the reason is given",
  );
  await stand.close();
});

test("the offline page opens from a file with the data inside, and saves from there", async (chrome) => {
  const series = file({ seconds: 90 }).replaceAll("<", "\\u003c");
  const plain = `<script type="application/x-ndjson" data-name="production">${series}</script>`;
  const base64 = gzipSync(file({ seconds: 90, seed: 3 })).toString("base64");
  const dense = `<script type="application/x-ndjson" data-name="rehearsal" data-encoding="base64">${base64}</script>`;
  const report = `${RESULTS}/report.html`;
  writeFileSync(
    report,
    readFileSync(SINGLE, "utf8").replace("</body>", () => `${plain}\n${dense}\n</body>`),
  );
  const { page, wrong } = await openPage(chrome, pathToFileURL(report).href);
  await drawn(page);
  ok((await page.locator(".source").innerText()).includes("production"), "the bar names the run");
  same(await page.locator("#choice-run option").allInnerTexts(), ["production", "rehearsal"], "both runs are there");
  await page.locator("#waiting-clients").scrollIntoViewIfNeeded();
  await page.locator("#waiting-clients .entry").first().waitFor();
  await page.locator("#waiting-clients .menu summary").click();
  const path = await saved(page, () => page.locator("#waiting-clients .choices button", { hasText: "PDF" }).click());
  ok(readFileSync(path).subarray(0, 5).toString() === "%PDF-", "a PDF is saved offline");
  await clean(page, wrong);
});
