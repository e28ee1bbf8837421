// What browser tests stand on: a server like the data plane's (its security policy, its live stream), Chromium, and the page's own log.

import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { DEFAULTS, lines } from "../generate.mjs";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const DIST = join(ROOT, "dist");
export const SINGLE = join(ROOT, "dist-single", "index.html");
export const RESULTS = join(ROOT, "test", "results");

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".ndjson": "application/x-ndjson",
};
export const POLICY = "default-src 'self'";

/**
 * Serves dist as the data plane does; with `live`, the stream too: its history at once, then a tick every `every` ms.
 * `files` are served by their names.
 */
export async function serve({ live = null, every = 1000, files = {} } = {}) {
  const open = new Set();
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://here").pathname;
    response.setHeader("Content-Security-Policy", POLICY);
    response.setHeader("X-Content-Type-Options", "nosniff");
    if (files[path.slice(1)] !== undefined) {
      response.setHeader("Content-Type", TYPES[extname(path)] ?? "application/octet-stream");
      response.end(files[path.slice(1)]);
    } else if (path === "/api/v1/header" && live) {
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify(lines(live).next().value));
    } else if (path === "/api/v1/live" && live) {
      open.add(response);
      response.on("close", () => open.delete(response));
      stream(response, live, every);
    } else {
      const name = normalize(path === "/" ? "index.html" : path.slice(1));
      const whole = join(DIST, name);
      if (name.startsWith("..") || !existsSync(whole)) {
        response.statusCode = 404;
        response.setHeader("Content-Type", "application/json");
        response.end('{"schema":"optimacore.error/1","error":"not found"}');
      } else {
        response.setHeader("Content-Type", TYPES[extname(name)] ?? "application/octet-stream");
        response.end(readFileSync(whole));
      }
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `http://127.0.0.1:${server.address().port}/`,
    /** Ends live streams, as a restart of the plane does. */
    cut() {
      for (const response of open) response.end();
    },
    close() {
      for (const response of open) response.end();
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

function stream(response, live, every) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  const history = live.history ?? 120;
  const all = lines({ ...DEFAULTS, start: Date.now() - (history + 1) * 1000, ...live, seconds: 1e6 });
  let ticks = 0;
  const send = (line) => response.write(`event: line\ndata: ${JSON.stringify(line)}\n\n`);
  const until = (goal) => {
    while (ticks < goal) {
      const line = all.next().value;
      if ("t" in line && "v" in line) ticks++;
      send(line);
    }
  };
  until(history);
  if (every === 0) return;
  const timer = setInterval(() => until(ticks + 1), every);
  response.on("close", () => clearInterval(timer));
}

export async function browser() {
  const path = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
  if (!path) throw new Error("Chromium is not installed; run make deps");
  return chromium.launch({
    executablePath: path,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** A page that remembers what went wrong in it: errors, refused by the policy, failed requests. */
export async function openPage(chrome, address, options = {}) {
  const context = await chrome.newContext({
    viewport: { width: 1280, height: 800 },
    acceptDownloads: true,
    ...options,
  });
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") wrong.push(`${message.type()}: ${message.text()}`);
  });
  await page.addInitScript(() => {
    window.refused = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      window.refused.push(
        `${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber} ${event.sample}`,
      );
    });
  });
  if (address) await page.goto(address);
  return { page, context, wrong };
}

/** Until the figures and the charts of the screen are drawn. */
export async function drawn(page) {
  await page.waitForFunction(
    () =>
      document.querySelector("main:not([hidden]) .figure .number") !== null &&
      [...document.querySelectorAll(".chart")]
        .filter((chart) => chart.getBoundingClientRect().top < window.innerHeight)
        .every((chart) => chart.classList.contains("empty") || chart.querySelector(".plot svg path") !== null),
    null,
    { timeout: 20_000 },
  );
}
