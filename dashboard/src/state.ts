// Everything about a view that a link carries: it lives in the URL's fragment and is read back from there.

import type { Filter } from "./store/query.ts";

export type Window = { last: number } | { from: number; to: number } | "all";
export type Theme = "system" | "light" | "dark" | "contrast";
export type Part = "queue" | "pipe_wait" | "server" | "proxy";

export interface State {
  window: Window | null;
  database: string | null;
  user: string | null;
  shard: string | null;
  statement: string | null;
  part: Part;
  theme: Theme;
  /** The end of what is shown while paused, in milliseconds since 1970. */
  paused: number | null;
  sort: string;
  descending: boolean;
  search: string;
  run: number;
  compare: number | null;
  sources: string[];
  hidden: string[];
}

export const PARTS: Part[] = ["queue", "pipe_wait", "server", "proxy"];
const THEMES: Theme[] = ["system", "light", "dark", "contrast"];

export function initial(): State {
  return {
    window: null,
    database: null,
    user: null,
    shard: null,
    statement: null,
    part: "server",
    theme: "system",
    paused: null,
    sort: "share",
    descending: true,
    search: "",
    run: 0,
    compare: null,
    sources: [],
    hidden: [],
  };
}

function whole(text: string | null): number | null {
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : null;
}

/** Reads a fragment; what makes no sense in it is passed over. */
export function parse(fragment: string): State {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = initial();
  const from = whole(given.get("from"));
  const to = whole(given.get("to"));
  const last = whole(given.get("last"));
  if (from !== null && to !== null && from < to) state.window = { from, to };
  else if (last !== null && last > 0) state.window = { last };
  else if (given.get("last") === "all") state.window = "all";
  state.database = given.get("database");
  state.user = given.get("user");
  state.shard = given.get("shard");
  state.statement = given.get("statement");
  const part = given.get("part") as Part;
  if (PARTS.includes(part)) state.part = part;
  const theme = given.get("theme") as Theme;
  if (THEMES.includes(theme)) state.theme = theme;
  state.paused = whole(given.get("paused"));
  state.sort = given.get("sort") ?? state.sort;
  state.descending = given.get("order") !== "up";
  state.search = given.get("search") ?? "";
  state.run = whole(given.get("run")) ?? 0;
  state.compare = whole(given.get("compare"));
  state.sources = given.getAll("src");
  state.hidden = given.getAll("hide");
  return state;
}

export function write(state: State): string {
  const out = new URLSearchParams();
  const put = (name: string, value: string | number | null, usual: string | number | null = null) => {
    if (value !== null && value !== usual && value !== "") out.set(name, String(value));
  };
  if (state.window === "all") out.set("last", "all");
  else if (state.window && "last" in state.window) out.set("last", String(state.window.last));
  else if (state.window) {
    out.set("from", String(Math.round(state.window.from)));
    out.set("to", String(Math.round(state.window.to)));
  }
  const usual = initial();
  put("database", state.database);
  put("user", state.user);
  put("shard", state.shard);
  put("statement", state.statement);
  put("part", state.part, usual.part);
  put("theme", state.theme, usual.theme);
  put("paused", state.paused === null ? null : Math.round(state.paused));
  put("sort", state.sort, usual.sort);
  if (!state.descending) out.set("order", "up");
  put("search", state.search);
  put("run", state.run, 0);
  put("compare", state.compare);
  for (const source of state.sources) out.append("src", source);
  for (const name of state.hidden) out.append("hide", name);
  return out.toString();
}

export function filterOf(state: State): Filter {
  const filter: Filter = {};
  if (state.database !== null) filter.database = state.database;
  if (state.user !== null) filter.user = state.user;
  if (state.shard !== null) filter.shard = state.shard;
  return filter;
}
