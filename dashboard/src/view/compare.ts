// Two runs side by side: what changed, and whether chance alone could have done it.

import type { Unit } from "../format.ts";
import type { Answer, Query } from "../store/query.ts";
import { type Difference, mannWhitney } from "../store/statistic.ts";
import { divide, poolUse, type Scene } from "./panel.ts";

export interface Compared extends Difference {
  name: string;
  unit: Unit;
  /** Change of the median, as a part of the first run's. */
  change: number;
  verdict: "higher" | "lower" | "same" | "unknown";
  /** Whether higher is worse. */
  better: "low" | "high" | "neither";
}

/** Chance below this is called a difference. */
export const LEVEL = 0.01;

type Values = (query: Query) => Answer[];

const MEASURES: [string, Unit, Compared["better"], (scene: Scene) => Values][] = [
  ["Requests a second", "rate", "high", (scene) => (query) => query.rate("requests_total", [], scene.filter)],
  ...(["queue", "pipe_wait", "server", "proxy"] as const).flatMap((part): typeof MEASURES =>
    ([0.5, 0.99] as const).map((share) => [
      `${part.replace("_", " ")}, p${share * 100}`,
      "seconds",
      "low",
      (scene) => (query) => query.quantiles("request_seconds", [share], scene.filter, { phase: part }),
    ]),
  ),
  ["Errors a second", "rate", "low", (scene) => (query) => query.rate("errors_total", [], scene.filter)],
  [
    "Clients waiting",
    "count",
    "low",
    (scene) => (query) => query.gauge("pool_clients", [], scene.filter, "sum", { state: "waiting" }),
  ],
  ["Pool utilisation", "ratio", "low", (scene) => (query) => poolUse(query, scene.filter).slice(0, 1)],
  [
    "Processor seconds per request",
    "seconds",
    "low",
    (scene) => (query) =>
      divide(query.rate("process_cpu_seconds_total", [], {}), query.rate("requests_total", [], scene.filter)),
  ],
];

/** Per-second values of both runs within what is shown, tested one by one. */
export function compare(scene: Scene): Compared[] {
  const { second } = scene;
  if (!second) return [];
  const out: Compared[] = [];
  for (const [name, unit, better, ask] of MEASURES) {
    const values = ask(scene);
    const take = (query: Query, shift: number) => {
      const [from, to] = query.range(scene.from - shift, scene.to - shift);
      return (values(query)[0]?.values ?? []).slice(from, to);
    };
    const difference = mannWhitney(take(scene.query, 0), take(second.query, second.shift));
    if (difference.count[0] === 0 && difference.count[1] === 0) continue;
    const [before, after] = difference.median;
    const verdict = Number.isNaN(difference.p)
      ? "unknown"
      : difference.p >= LEVEL
        ? "same"
        : difference.superiority > 0.5
          ? "higher"
          : "lower";
    out.push({ ...difference, name, unit, better, change: before === 0 ? Number.NaN : after / before - 1, verdict });
  }
  return out;
}
