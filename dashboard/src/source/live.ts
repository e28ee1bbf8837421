// The live stream: Server-Sent Events of /api/v1/live, one line of the series stream each. The browser reconnects by itself.

import { Run } from "../store/run.ts";
import { LineError, readLine } from "./line.ts";

export type LiveState = "connecting" | "live" | "lost";

export interface Live {
  run: Run;
  stop(): void;
}

export interface LiveListener {
  onLines(run: Run): void;
  onState(state: LiveState): void;
}

/** Longest time lines are gathered before the page hears of them. */
const GATHER_MS = 50;

export function follow(address: string, name: string, listener: LiveListener): Live {
  const run = new Run(name);
  const source = new EventSource(address);
  let timer = 0;
  const tell = () => {
    timer = 0;
    listener.onLines(run);
  };
  source.addEventListener("open", () => listener.onState("live"));
  source.addEventListener("error", () => {
    listener.onState(source.readyState === EventSource.CLOSED ? "lost" : "connecting");
  });
  source.addEventListener("line", (event) => {
    try {
      run.accept(readLine((event as MessageEvent<string>).data));
    } catch (error) {
      if (!(error instanceof LineError)) throw error;
      if (run.complaints.length < 20)
        run.complaints.push({ source: name, reason: `a line of the stream: ${error.message}` });
    }
    if (timer === 0) timer = window.setTimeout(tell, GATHER_MS);
  });
  return {
    run,
    stop() {
      source.close();
      window.clearTimeout(timer);
    },
  };
}

/** Whether this page comes from a data plane's own endpoint. */
export async function isThere(base: string): Promise<boolean> {
  try {
    const answer = await fetch(new URL("api/v1/header", base), { headers: { accept: "application/json" } });
    if (!answer.ok) return false;
    const header = (await answer.json()) as { schema?: unknown };
    return String(header.schema).startsWith("optimacore.series/");
  } catch {
    return false;
  }
}
