// Looking at a run: figures, filters, zoom, statements, comparison, keyboard.

import { file } from "../generate.mjs";
import { clean, ok, same, test } from "./case.mjs";
import { drawn, openPage, serve } from "./stand.mjs";

const RUN = file({ seconds: 600 });
const OTHER = file({ seconds: 600, seed: 2, slow: 1.6, name: "db-plane-2" });

async function withRun(chrome, body, fragment = "", options = {}, content = RUN) {
  const stand = await serve({ files: { "run.ndjson": content, "other.ndjson": OTHER } });
  try {
    const { page, wrong } = await openPage(chrome, `${stand.address}#src=run.ndjson${fragment}`, options);
    await drawn(page);
    await body(page, stand);
    await clean(page, wrong);
  } finally {
    await stand.close();
  }
}

const text = (page, selector) => page.locator(selector).first().innerText();

test("a run is opened from its address and answers the questions of an operator", (chrome) =>
  withRun(chrome, async (page) => {
    const questions = await page.locator("main > section:not([hidden]) h2").allInnerTexts();
    same(
      questions.slice(0, 4),
      ["Is it well?", "Is anyone waiting?", "How full are the pools?", "Where does the time go?"],
      "the first questions",
    );
    same(questions.length, 11, "the number of questions");
    ok((await text(page, "#figure-operations .number")).endsWith("/s"), "operations have a figure");
    ok(/ms$/.test(await text(page, "#figure-p99 .number")), "p99 has a figure");
    ok((await page.locator(".figure .gauge").count()) === 4, "each figure has its gauge");
    ok((await text(page, ".source")).includes("db-plane-1"), "the bar names the host");
  }));

test("in its bad minute the page says what is wrong, and where to look", (chrome) => {
  const start = Date.UTC(2026, 9, 5, 9, 30, 0);
  return withRun(
    chrome,
    async (page) => {
      const alarms = await page.locator(".alarms li").allInnerTexts();
      ok(
        alarms.some((alarm) => /clients wait, the longest for/.test(alarm)),
        `waiting is named: ${alarms}`,
      );
      ok(
        alarms.some((alarm) => /pool app \/ app is 9\d(\.\d)? % busy/.test(alarm)),
        `the full pool is named: ${alarms}`,
      );
      ok(
        alarms.some((alarm) => /errors in .* class 53/.test(alarm)),
        `errors are named: ${alarms}`,
      );
      await page.locator('.alarms a[data-section="pools"]').first().click();
      await page.waitForFunction(() => document.activeElement?.textContent === "How full are the pools?");
    },
    `&from=${start + 300_000}&to=${start + 350_000}`,
  );
});

test("every chart of a full run shows something, and has its numbers in a table", (chrome) =>
  withRun(
    chrome,
    async (page) => {
      const height = await page.evaluate(() => document.documentElement.scrollHeight);
      await page.setViewportSize({ width: 1280, height });
      await page.waitForFunction(() =>
        [...document.querySelectorAll(".chart")].every((chart) => chart.querySelector(".plot svg path")),
      );
      same(await page.locator(".chart.empty h3").allInnerTexts(), [], "charts without data");
      const charts = await page.locator("main .charts .chart").count();
      ok(charts > 25, `${charts} charts`);
      for (const summary of await page.locator(".numbers summary").all()) await summary.click();
      const rows = await page
        .locator(".numbers table")
        .evaluateAll((tables) => tables.map((table) => table.rows.length));
      same(rows.length, charts, "tables");
      ok(
        rows.every((count) => count > 2),
        `rows of tables: ${rows}`,
      );
      ok(
        (await page.locator("#waiting-clients .note").first().innerText()).includes("optimacore_pool_clients"),
        "the table names its metric",
      );
    },
    "",
    {},
    file({ seconds: 150, trouble: [60, 100] }),
  ));

test("filters narrow every view and are in the link", (chrome) =>
  withRun(chrome, async (page, stand) => {
    const all = await text(page, "#figure-operations .number");
    await page.selectOption("#choice-pool", { label: "shop / web" });
    await page.waitForFunction(
      (before) => document.querySelector("#figure-operations .number").textContent !== before,
      all,
    );
    same(await page.locator("#waiting-clients .entry .name").allInnerTexts(), ["shop / web"], "lines of one pool");
    await page.selectOption("#choice-core", "1");
    await page.waitForFunction(() => location.hash.includes("shard=1"));
    const narrowed = await text(page, "#figure-operations .number");
    const again = await openPage(chrome, page.url());
    await drawn(again.page);
    same(await text(again.page, "#figure-operations .number"), narrowed, "the same link shows the same");
    await page.selectOption("#choice-pool", { label: "database app" });
    await page.waitForFunction(() => document.querySelectorAll("#waiting-clients .entry").length === 2);
    ok(stand.address.length > 0, "the stand is there");
  }));

test("dragging over a chart zooms all charts, and back", (chrome) =>
  withRun(chrome, async (page) => {
    const frame = page.locator("#waiting-clients .frame");
    const box = await frame.boundingBox();
    await page.mouse.move(box.x + 200, box.y + 60);
    await page.mouse.down();
    await page.mouse.move(box.x + 320, box.y + 60, { steps: 5 });
    ok(await page.locator("#waiting-clients .brush").isVisible(), "the brush is seen");
    await page.mouse.up();
    await page.waitForFunction(() => /from=\d+&to=\d+/.test(location.hash));
    const [, from, to] = /from=(\d+)&to=(\d+)/.exec(page.url());
    const span = (to - from) / 1000;
    ok(span > 100 && span < 180, `${span} s are shown`);
    ok(!(await text(page, ".times")).includes("09:30:00"), "the bar says which time");
    await page.locator("#waiting-longest .frame").dblclick();
    await page.waitForFunction(() => !location.hash.includes("from="));
  }));

test("the cursor stands at the same time in all charts, and legends say the values there", (chrome) =>
  withRun(chrome, async (page) => {
    const box = await page.locator("#waiting-clients .frame").boundingBox();
    await page.mouse.move(box.x + 340, box.y + 60);
    await page.waitForFunction(() =>
      [...document.querySelectorAll("#waiting .cursor")].every((cursor) => !cursor.hidden),
    );
    const inTrouble = await text(page, "#waiting-clients .entry .value");
    await page.mouse.move(box.x + 100, box.y + 60);
    await page.waitForFunction(
      (before) => document.querySelector("#waiting-clients .entry .value").textContent !== before,
      inTrouble,
    );
    same(await text(page, "#waiting-clients .entry .value"), "0", "nobody waits early on");
  }));

test("the keyboard reaches everything: cursor, selection, zoom, pause, menus", (chrome) =>
  withRun(chrome, async (page) => {
    await page.locator("#waiting-clients .frame").focus();
    for (let step = 0; step < 30; step++) await page.keyboard.press("ArrowLeft");
    const said = await page.locator(".unseen").innerText();
    ok(/\d\d:\d\d:\d\d: app \/ app \d+/.test(said), `the values are said: ${said}`);
    for (let step = 0; step < 6; step++) await page.keyboard.press("Shift+ArrowRight");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => location.hash.includes("from="));
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => !location.hash.includes("from="));
    await page.locator("#waiting-clients .menu summary").focus();
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    same(await page.evaluate(() => document.activeElement.textContent), "PNG", "the first choice of the menu");
    await page.keyboard.press("Escape");
    ok(!(await page.locator("#waiting-clients .menu").evaluate((menu) => menu.open)), "Escape closes the menu");
    await page.evaluate(() => document.activeElement.blur());
    await page.keyboard.press("/");
    same(await page.evaluate(() => document.activeElement.id), "statement-search", "/ goes to the search");
    const unnamed = await page.evaluate(() =>
      [...document.querySelectorAll("button, summary, select, input, [tabindex='0']")]
        .filter(
          (one) =>
            one.checkVisibility() && !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length),
        )
        .map((one) => one.outerHTML.slice(0, 80)),
    );
    same(unnamed, [], "controls without a name");
  }));

test("statements are searched, sorted, looked into; their text is only text", (chrome) =>
  withRun(chrome, async (page) => {
    const rows = page.locator(".statements tbody tr");
    same(await rows.count(), 8, "statements");
    ok((await rows.nth(4).locator("th").innerText()).length > 0, "rows have texts");
    const script = page.locator(".statements button", { hasText: "<script>" });
    same(
      await script.innerText(),
      "select '<script>window.broken = true</script>' as \"<img src=x onerror=alert(1)>\"",
      "the text of the statement",
    );
    await page.locator('[data-column="errors"]').click();
    ok((await rows.first().innerText()).includes("insert into events"), "sorted by errors");
    await page.locator('[data-column="errors"]').click();
    ok(page.url().includes("order=up"), "the order is in the link");
    await page.fill("#statement-search", "orders customers");
    await page.waitForFunction(() => document.querySelectorAll(".statements tbody tr").length === 1);
    await page.fill("#statement-search", "script");
    await page.waitForFunction(() => document.querySelector(".statements tbody tr")?.textContent.includes("script"));
    await script.click();
    await page.waitForFunction(() => document.querySelectorAll(".detail .plot svg path").length > 6);
    ok((await page.locator(".detail pre").innerText()).startsWith("select '<script>"), "the whole text is shown");
    ok(page.url().includes("statement="), "the statement is in the link");
    same(await page.evaluate(() => window.broken), undefined, "nothing of it ran");
    await page.locator(".detail button", { hasText: "Show all" }).click();
    await page.waitForFunction(() => document.querySelectorAll(".detail .plot").length === 0);
  }));

test("lines are hidden and shown by their legends, and the link keeps it", (chrome) =>
  withRun(chrome, async (page) => {
    await page.locator("#pool-servers").scrollIntoViewIfNeeded();
    const entry = page.locator("#pool-servers .entry").first();
    await entry.waitFor();
    const before = await page.locator("#pool-servers .plot path").count();
    await entry.click();
    await page.waitForFunction((count) => document.querySelectorAll("#pool-servers .plot path").length < count, before);
    same(
      await page.locator("#pool-servers .entry").first().getAttribute("aria-pressed"),
      "false",
      "the button says so",
    );
    ok(page.url().includes("hide=pool-servers"), "the link has it");
  }));

test("two runs are compared: lines over each other, curves, and a tested table", (chrome) =>
  withRun(
    chrome,
    async (page) => {
      await page.waitForFunction(() => document.querySelectorAll("#compare tbody tr").length > 8);
      const rows = await page.locator("#compare tbody tr").allInnerTexts();
      const server = rows.find((row) => row.startsWith("server, p50"));
      ok(/higher, worse/.test(server) && /< 0\.0001/.test(server), `the slower server is found: ${server}`);
      const proxy = rows.find((row) => row.startsWith("proxy, p50"));
      ok(/no difference shown/.test(proxy), `the same proxy is no difference: ${proxy}`);
      ok((await text(page, "#compare .note")).includes("Mann-Whitney"), "the test is stated");
      await page.locator("#waiting-clients").scrollIntoViewIfNeeded();
      await page.locator("#waiting-clients .entry").first().waitFor();
      const names = await page.locator("#waiting-clients .entry .name").allInnerTexts();
      ok(names.includes("app / app") && names.includes("app / app (B)"), `both runs have lines: ${names}`);
      ok(page.url().includes("compare=1"), "the comparison is in the link");
      await page.selectOption("#choice-compare-with", "");
      await page.waitForFunction(() => document.querySelector("#compare").hidden);
    },
    "&src=other.ndjson",
  ));

test("themes: dark by the system, high contrast by choice, kept in the link", (chrome) =>
  withRun(
    chrome,
    async (page) => {
      same(await page.evaluate(() => document.documentElement.dataset.theme), "dark", "the system is dark");
      await page.selectOption("#choice-theme", "contrast");
      same(await page.evaluate(() => document.documentElement.dataset.contrast), "more", "high contrast");
      ok(page.url().includes("theme=contrast"), "the theme is in the link");
      const stroke = await page.locator("#waiting-clients .plot path[stroke-width='2.5']").count();
      ok(stroke > 0, "lines are thicker");
    },
    "",
    { colorScheme: "dark" },
  ));
