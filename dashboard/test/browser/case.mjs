// What a browser test is made of: its registration, its judgements, its downloads, its measures.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { RESULTS } from "./stand.mjs";

export const tests = [];

/** Registers a test; its name is a sentence. */
export function test(name, body) {
  tests.push({ name, body });
}

export function ok(condition, message) {
  if (!condition) throw new Error(message);
}

export function same(actual, expected, message) {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${message}: ${a} instead of ${b}`);
}

/** A program's output. */
export function run(program, ...args) {
  return execFileSync(program, args, { encoding: "utf8" });
}

/** What a click downloads, saved beside the results. */
export async function saved(page, click) {
  const [download] = await Promise.all([page.waitForEvent("download", { timeout: 30_000 }), click()]);
  const path = `${RESULTS}/${download.suggestedFilename()}`;
  await download.saveAs(path);
  return path;
}

/** Nothing went wrong in the page, and its security policy refused nothing. */
export async function clean(page, wrong) {
  same(wrong, [], "the page's log");
  same(await page.evaluate(() => window.refused), [], "what the security policy refused");
}

export const packed = (path) => gzipSync(readFileSync(path), { level: 9 }).length;

export const measures = {};
/** A figure against what is promised. Times depend on what else the machine does: they are told, and fail nothing. */
export function measure(name, value, unit, limit) {
  measures[name] = { value: Math.round(value * 10) / 10, unit, limit };
  const verdict = value <= limit ? "reached" : "not reached";
  console.log(`  ${name}: ${measures[name].value} ${unit} (at most ${limit}: ${verdict})`);
  if (unit !== "ms") ok(value <= limit, `${name} is ${value} ${unit}, at most ${limit} is allowed`);
}
