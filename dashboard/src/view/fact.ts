// Facts of the host and the process, as far as the source has them.

import { clock, day, format } from "../format.ts";
import type { Run } from "../store/run.ts";
import { h } from "./dom.ts";

export function hostFacts(list: HTMLElement, run: Run): void {
  const { header, facts } = run;
  const host = header?.host ?? {};
  const known: [string, string][] = [];
  const put = (name: string, value: string | number | undefined | null) => {
    if (value !== undefined && value !== null && value !== "" && value !== 0) known.push([name, String(value)]);
  };
  put("Host", host.name);
  put("Kernel", host.kernel);
  put("Processors", host.cpus);
  put("Memory", host.memory_bytes ? format(host.memory_bytes, "bytes") : null);
  put("Version", header?.version);
  put("Commit", header?.commit?.slice(0, 12));
  put("Process", header?.pid);
  if (header && header.start_us > 0) put("Started", `${day(header.start_us / 1000)} ${clock(header.start_us / 1000)}`);
  if (typeof facts?.program === "string") put("Program", facts.program);
  if (typeof facts?.config_sha256 === "string") put("Configuration", facts.config_sha256.slice(0, 12));
  const key = JSON.stringify(known);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...known.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
