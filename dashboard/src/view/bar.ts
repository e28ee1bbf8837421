// The bar at the top: where the data comes from, what of it is shown, and what can be done with it.

import { clock, day, lasting } from "../format.ts";
import type { Page } from "../page.ts";
import { PARTS, type Part, type State, type Theme } from "../state.ts";
import { FORMS } from "./chart.ts";
import { h } from "./dom.ts";
import { pick } from "./message.ts";
import { PART_NAMES, type Scene } from "./panel.ts";

type Choice = [value: string, name: string];

const WINDOWS: [string, string, State["window"]][] = [
  ["60", "1 min", { last: 60 }],
  ["300", "5 min", { last: 300 }],
  ["900", "15 min", { last: 900 }],
  ["3600", "1 h", { last: 3600 }],
  ["all", "all", "all"],
];

export class Bar {
  readonly element: HTMLElement;
  private readonly source = h("p", { class: "source" });
  private readonly times = h("p", { class: "times" });
  private readonly pauseButton: HTMLButtonElement;
  private readonly windows: HTMLElement;
  private readonly zoomOut: HTMLButtonElement;
  private readonly pool: HTMLSelectElement;
  private readonly shard: HTMLSelectElement;
  private readonly run: HTMLSelectElement;
  private readonly compare: HTMLSelectElement;
  private readonly theme: HTMLSelectElement;
  private readonly savers: HTMLElement;
  private readonly runBoxes: HTMLElement[];
  private readonly filterBoxes: HTMLElement;
  private part: HTMLSelectElement | null = null;

  constructor(private readonly page: Page) {
    this.pauseButton = h("button", { type: "button", class: "pause", on: { click: () => page.pause() } });
    this.windows = h(
      "div",
      { class: "segments", role: "group", "aria-label": "Time shown" },
      ...WINDOWS.map(([value, name, window]) =>
        h("button", { type: "button", "data-window": value, on: { click: () => page.setWindow(window) } }, name),
      ),
    );
    this.zoomOut = h("button", { type: "button", hidden: true, on: { click: () => page.widen() } }, "Zoom out");
    this.pool = this.select("Pool", (value) => {
      const [database, user] = JSON.parse(value) as [string | null, string | null];
      page.change({ database, user });
    });
    this.shard = this.select("Core", (value) => page.change({ shard: value === "" ? null : value }));
    this.run = this.select("Run", (value) => page.change({ run: Number(value) }));
    this.compare = this.select("Compare with", (value) =>
      page.change({ compare: value === "" ? null : Number(value) }),
    );
    this.theme = this.select("Theme", (value) => page.setTheme(value as Theme));
    setOptions(
      this.theme,
      [
        ["system", "as the system"],
        ["light", "light"],
        ["dark", "dark"],
        ["contrast", "high contrast"],
      ],
      "system",
    );
    const savePage = h(
      "details",
      { class: "menu" },
      h("summary", {}, "Save page"),
      h(
        "div",
        { class: "choices" },
        ...FORMS.map(([form, name]) =>
          h(
            "button",
            {
              type: "button",
              "aria-label": `Save the page as ${name}`,
              on: {
                click: () => {
                  page.savePage(form);
                  savePage.open = false;
                },
              },
            },
            name,
          ),
        ),
      ),
    );
    this.savers = savePage;
    const openButton = h("button", { type: "button", on: { click: () => this.pickFiles() } }, "Open");
    this.runBoxes = [label("Run", this.run), label("Compare with", this.compare)];
    this.filterBoxes = h(
      "div",
      { class: "filters" },
      ...this.runBoxes,
      label("Pool", this.pool),
      label("Core", this.shard),
      label("Theme", this.theme),
    );
    this.element = h(
      "header",
      { class: "bar" },
      h(
        "div",
        { class: "line" },
        h("h1", {}, "OptimaCore"),
        this.source,
        h("div", { class: "actions" }, openButton, this.savers),
      ),
      h("div", { class: "line controls" }, this.pauseButton, this.windows, this.zoomOut, this.times, this.filterBoxes),
    );
  }

  pickFiles(): void {
    pick((sources) => void this.page.open(sources));
  }

  /** Which part of the time the heat map is of. */
  partChoice(): HTMLElement {
    this.part = this.select("Heat map of", (value) => this.page.change({ part: value as Part }));
    setOptions(
      this.part,
      PARTS.map((part) => [part, PART_NAMES[part] as string]),
      this.page.state.part,
    );
    return label("Heat map of", this.part);
  }

  draw(scene: Scene | null, status: "live" | "lost" | "file"): void {
    const { state } = this.page;
    this.element.classList.toggle("idle", scene === null);
    this.theme.value = state.theme;
    if (this.part) this.part.value = state.part;
    this.drawSource(scene, status);
    this.pauseButton.hidden = !this.page.running;
    this.pauseButton.textContent = state.paused === null ? "Pause" : "Resume";
    this.pauseButton.setAttribute("aria-pressed", String(state.paused !== null));
    const shown = state.window ?? (this.page.running ? { last: 300 } : "all");
    const chosen = shown === "all" ? "all" : "last" in shown ? String(shown.last) : "";
    for (const button of this.windows.querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(button.dataset.window === chosen));
    this.zoomOut.hidden = chosen !== "";
    if (!scene) return;
    const same = day(scene.from) === day(scene.to);
    const text = `${day(scene.from)} ${clock(scene.from)} – ${same ? "" : `${day(scene.to)} `}${clock(scene.to)}`;
    if (this.times.textContent !== text) this.times.textContent = text;
    this.drawChoices(scene);
  }

  private drawSource(scene: Scene | null, status: "live" | "lost" | "file"): void {
    const run = scene?.query.run;
    const words = { live: this.page.state.paused === null ? "live" : "paused", lost: "no answer", file: "file" }[
      status
    ];
    const up =
      run?.header && run.header.start_us > 0 ? `up ${lasting(run.span[1] - run.header.start_us / 1000)}` : null;
    const parts = scene
      ? [
          run?.header?.host.name,
          run?.header?.version && `version ${run.header.version}`,
          status === "file" ? run?.name : up,
        ].filter(Boolean)
      : [];
    const key = JSON.stringify([scene !== null, words, parts]);
    if (this.source.dataset.key === key) return;
    this.source.dataset.key = key;
    if (!scene) this.source.replaceChildren();
    else
      this.source.replaceChildren(
        h("span", { class: `state ${words.replace(" ", "-")}` }, words),
        h("span", { class: "of" }, parts.join(" · ")),
      );
  }

  private drawChoices(scene: Scene): void {
    const { state, queries } = this.page;
    const runs: Choice[] = queries.map((query, index) => [String(index), query.run.name]);
    setOptions(this.run, runs, String(state.run));
    setOptions(
      this.compare,
      [["", "nothing"], ...runs.filter(([value]) => value !== String(state.run))],
      state.compare === null ? "" : String(state.compare),
    );
    for (const box of this.runBoxes) box.hidden = runs.length < 2;
    const pairs = new Map<string, Choice>();
    const databases = new Set<string>();
    const users = new Set<string>();
    for (const metric of ["pool_clients", "requests_total", "request_seconds"]) {
      for (const { labels } of scene.query.select(metric, {})) {
        if (labels.database === undefined) continue;
        databases.add(labels.database);
        users.add(labels.user ?? "");
        pairs.set(`${labels.database}/${labels.user}`, [
          JSON.stringify([labels.database, labels.user ?? ""]),
          `${labels.database} / ${labels.user}`,
        ]);
      }
    }
    const choices: Choice[] = [[JSON.stringify([null, null]), "all pools"]];
    if (pairs.size > 1) {
      if (databases.size > 1 && users.size > 1) {
        choices.push(
          ...[...databases].sort().map((name): Choice => [JSON.stringify([name, null]), `database ${name}`]),
        );
        choices.push(...[...users].sort().map((name): Choice => [JSON.stringify([null, name]), `user ${name}`]));
      }
    }
    choices.push(...[...pairs.values()].sort((a, b) => a[1].localeCompare(b[1])));
    setOptions(this.pool, choices, JSON.stringify([state.database, state.user]));
    const shards = scene.query.valuesOf("shard_clients", "shard");
    const pools = shards.length > 0 ? shards : scene.query.valuesOf("requests_total", "shard");
    setOptions(
      this.shard,
      [["", "all cores"], ...pools.map((shard): Choice => [shard, `core ${shard}`])],
      state.shard ?? "",
    );
  }

  private select(name: string, chosen: (value: string) => void): HTMLSelectElement {
    const element = h("select", {
      id: `choice-${name.toLowerCase().replaceAll(" ", "-")}`,
      on: { change: () => chosen(element.value) },
    });
    return element;
  }
}

function label(name: string, select: HTMLSelectElement): HTMLElement {
  return h("label", { class: "choice", for: select.id }, h("span", {}, name), select);
}

/** Puts the choices in, when they are not there yet; what the link names stays choosable. */
function setOptions(select: HTMLSelectElement, choices: Choice[], value: string): void {
  const known = choices.some(([one]) => one === value)
    ? choices
    : [...choices, [value, value.replace(/["[\]]/g, "")] as Choice];
  const key = JSON.stringify(known);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...known.map(([one, name]) => h("option", { value: one }, name)));
  }
  if (select.value !== value) select.value = value;
}
