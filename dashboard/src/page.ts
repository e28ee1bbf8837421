// The page: it holds the runs and the state, and tells every view when to draw.

import { type Look, screenLook } from "./chart/look.ts";
import type { Model } from "./chart/model.ts";
import type { Item } from "./export/paper.ts";
import { save, savePage } from "./export/save.ts";
import { open, type Source } from "./source/file.ts";
import { follow, type Live, type LiveState } from "./source/live.ts";
import type { Complaint } from "./source/schema.ts";
import { filterOf, initial, parse, type State, type Theme, write } from "./state.ts";
import { Query } from "./store/query.ts";
import { PREFIX } from "./store/run.ts";
import { Bar } from "./view/bar.ts";
import { Chart, type ChartHost, type ExportForm } from "./view/chart.ts";
import { DifferenceView } from "./view/difference.ts";
import { h } from "./view/dom.ts";
import { hostFacts } from "./view/fact.ts";
import { Messages, Welcome } from "./view/message.ts";
import type { Panel, Scene } from "./view/panel.ts";
import { SECTIONS, statementPanels } from "./view/sections.ts";
import { StatementView } from "./view/statements.ts";
import { WellView } from "./view/well.ts";

/** What is shown at first of a live stream, in seconds. */
const LIVE_SECONDS = 300;
/** A live stream that says nothing for this long is called out. */
const SILENT_MS = 3500;
/** The table of statements is made anew no more often. */
const STATEMENTS_MS = 2000;

export class Page implements ChartHost {
  state: State = initial();
  private readonly runs: Query[] = [];
  private live: Live | null = null;
  private liveState: LiveState = "connecting";
  private heard = 0;
  private readonly charts = new Map<HTMLElement, Chart>();
  private statementCharts: Chart[] = [];
  private readonly bar: Bar;
  private readonly well = new WellView();
  private readonly statements: StatementView;
  private readonly difference = new DifferenceView();
  private readonly messages = new Messages();
  private readonly welcome: Welcome;
  private readonly main: HTMLElement;
  private readonly facts = h("dl", { class: "facts" });
  private readonly spoken = h("p", { class: "unseen", role: "status" });
  private readonly seen: IntersectionObserver;
  private readonly sized: ResizeObserver;
  private theLook: Look | null = null;
  private theScene: Scene | null = null;
  private due = false;
  private statementsDrawn = Number.NEGATIVE_INFINITY;
  private past: State["window"][] = [];

  constructor(private readonly root: HTMLElement) {
    this.bar = new Bar(this);
    this.statements = new StatementView({
      sortBy: (column) =>
        this.change({ sort: column, descending: this.state.sort === column ? !this.state.descending : true }),
      search: (search) => this.change({ search }),
      choose: (statement) => this.change({ statement }),
    });
    this.welcome = new Welcome(
      (sources) => void this.open(sources),
      (address) => void this.openAddresses([address]),
    );
    this.seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) this.charts.get(entry.target as HTMLElement)?.setVisible(entry.isIntersecting);
      },
      { rootMargin: "120px" },
    );
    this.sized = new ResizeObserver((entries) => {
      for (const entry of entries) {
        const figure = (entry.target as HTMLElement).closest("figure");
        if (figure)
          this.charts.get(figure)?.resize(Math.round(entry.contentRect.width), Math.round(entry.contentRect.height));
      }
    });
    this.main = h(
      "main",
      { id: "main" },
      this.well.element,
      this.difference.element,
      ...SECTIONS.map((section) => this.section(section)),
    );
    this.root.replaceChildren(
      h(
        "a",
        {
          class: "skip",
          href: "#main",
          on: {
            click: (event: MouseEvent) => {
              event.preventDefault();
              this.main.querySelector<HTMLElement>(".frame")?.focus();
            },
          },
        },
        "To the charts",
      ),
      this.bar.element,
      this.messages.element,
      this.welcome.element,
      this.main,
      this.spoken,
    );
    this.listen();
    this.restore();
  }

  // ------------------------------------------------------------------ sources

  async open(sources: Source[], replace = true): Promise<void> {
    if (sources.length === 0) return;
    const opened = await open(sources);
    if (replace && this.live && opened.runs.length > 0) this.stopLive();
    for (const run of opened.runs) this.runs.push(new Query(run));
    this.complain(opened.complaints);
    this.statementsDrawn = Number.NEGATIVE_INFINITY;
    if (opened.runs.length > 0) {
      const first = this.runs.length - opened.runs.length;
      const compare =
        this.runs.length > 1 && this.state.compare === null ? (first === 0 ? 1 : first) : this.state.compare;
      this.change({ compare, run: Math.min(this.state.run, this.runs.length - 1) });
    }
    this.invalidate();
  }

  async openAddresses(addresses: string[]): Promise<void> {
    const sources: Source[] = [];
    for (const address of addresses) {
      try {
        const answer = await fetch(new URL(address, document.baseURI));
        if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
        const name = new URL(address, document.baseURI).pathname.split("/").pop() || address;
        sources.push({ name, bytes: new Uint8Array(await answer.arrayBuffer()) });
      } catch (error) {
        this.complain([{ source: address, reason: `it cannot be fetched: ${(error as Error).message}` }]);
      }
    }
    await this.open(sources);
    const known = [...new Set([...this.state.sources, ...addresses])];
    if (sources.length > 0) this.change({ sources: known });
  }

  follow(address: string): void {
    this.live = follow(address, "live", {
      onLines: (run) => {
        this.heard = performance.now();
        this.complain(run.complaints.splice(0, run.complaints.length));
        this.invalidate();
      },
      onState: (state) => {
        this.liveState = state;
        this.heard ||= performance.now();
        this.invalidate();
      },
    });
    this.runs.push(new Query(this.live.run));
    this.invalidate();
    window.setInterval(() => {
      if (this.live && performance.now() - this.heard > SILENT_MS) this.invalidate();
    }, 1000);
  }

  private stopLive(): void {
    this.live?.stop();
    this.live = null;
    this.runs.splice(0, this.runs.length);
    this.state = { ...this.state, window: null, paused: null, compare: null, run: 0 };
  }

  private complain(complaints: Complaint[]): void {
    this.messages.add(complaints);
  }

  // -------------------------------------------------------------------- state

  change(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
    history.replaceState(null, "", `#${write(this.state)}`);
    this.statementsDrawn = Number.NEGATIVE_INFINITY;
    if ("theme" in change) this.dress();
    if ("hidden" in change) for (const chart of this.charts.values()) chart.invalidate();
    this.invalidate();
  }

  private restore(): void {
    this.state = parse(location.hash);
    this.dress();
    if (this.state.sources.length > 0 && this.runs.length === 0) void this.openAddresses(this.state.sources);
    this.invalidate();
  }

  private dress(): void {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const more = matchMedia("(prefers-contrast: more)").matches;
    const { theme } = this.state;
    const shade = theme === "system" || theme === "contrast" ? (dark ? "dark" : "light") : theme;
    document.documentElement.dataset.theme = shade;
    document.documentElement.dataset.contrast = theme === "contrast" || more ? "more" : "usual";
    this.theLook = null;
    for (const chart of this.charts.values()) chart.relook();
  }

  get running(): boolean {
    return this.live !== null;
  }

  pause(): void {
    const scene = this.theScene;
    this.change({ paused: this.state.paused === null && scene ? scene.to : null });
  }

  setTheme(theme: Theme): void {
    this.change({ theme });
  }

  setWindow(window: State["window"]): void {
    this.past = [];
    this.change({ window });
  }

  get queries(): readonly Query[] {
    return this.runs;
  }

  // --------------------------------------------------------------- chart host

  scene(): Scene | null {
    return this.theScene;
  }

  look(): Look {
    this.theLook ??= screenLook();
    return this.theLook;
  }

  point(time: number | null): void {
    for (const chart of this.charts.values()) if (chart.visible) chart.point(time);
  }

  zoom(from: number, to: number): void {
    if (to - from < 1000) return;
    this.past.push(this.state.window);
    this.change({ window: { from, to } });
  }

  widen(): void {
    const scene = this.theScene;
    if (!scene) return;
    if (this.past.length > 0) this.change({ window: this.past.pop() ?? null });
    else if (this.state.window !== null) this.change({ window: null });
  }

  isHidden(panel: string, line: string): boolean {
    return this.state.hidden.includes(`${panel}:${line}`);
  }

  toggle(panel: string, line: string): void {
    const name = `${panel}:${line}`;
    const hidden = this.state.hidden.filter((one) => one !== name);
    if (hidden.length === this.state.hidden.length) hidden.push(name);
    this.change({ hidden });
  }

  helpOf(metric: string): string {
    const known = this.theScene?.query.run.metric(PREFIX + metric);
    if (!known) return "";
    return `${known.name}: ${known.help}${known.normal ? ` Normal: ${known.normal}` : ""}`;
  }

  say(text: string): void {
    this.spoken.textContent = text;
  }

  save(panel: Panel, model: Model, form: ExportForm): void {
    void save(panel.title, panel.id, model, form, this.subtitle()).catch((error: Error) => this.failed(error));
  }

  /** The whole page, in the order of the page. */
  savePage(form: ExportForm): void {
    const scene = this.theScene;
    if (!scene) return;
    const items: Item[] = [{ kind: "well", well: this.well.latest }];
    for (const section of SECTIONS) {
      const panels = [...this.charts.values()].filter((chart) => section.panels.includes(chart.panel));
      items.push({ kind: "heading", text: section.question });
      for (const chart of panels)
        items.push({
          kind: "chart",
          title: chart.panel.title,
          id: chart.panel.id,
          wide: chart.panel.wide === true,
          model: chart.build(scene),
        });
      if (section.id === "statements") {
        this.drawStatements(scene);
        items.push({ kind: "statements", rows: this.statements.rows });
      }
    }
    void savePage(items, form, this.subtitle()).catch((error: Error) => this.failed(error));
  }

  private failed(error: Error): void {
    this.complain([{ source: "saving", reason: error.message }]);
  }

  private subtitle(): string {
    const scene = this.theScene;
    if (!scene) return "";
    const { run } = scene.query;
    const names = [run.header?.host.name, run.name === "live" ? null : run.name].filter(Boolean).join(", ");
    const filters = Object.entries(scene.filter).map(([name, value]) => `${name} ${value}`);
    const times = `${new Date(scene.from).toLocaleString("sv-SE")} to ${new Date(scene.to).toLocaleTimeString("sv-SE")}`;
    return [names, times, ...filters].filter(Boolean).join(" · ");
  }

  // ------------------------------------------------------------------ drawing

  invalidate(): void {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.draw();
    });
  }

  private makeScene(): Scene | null {
    const query = this.runs[Math.min(this.state.run, this.runs.length - 1)];
    if (!query || query.run.ticks === 0) return null;
    const { state } = this;
    const [begin, end] = query.run.span;
    const now = this.live && query.run === this.live.run ? (state.paused ?? end) : end;
    const window = state.window ?? (this.live ? { last: LIVE_SECONDS } : "all");
    let from = begin;
    let to = now;
    if (window !== "all") {
      if ("last" in window) from = now - window.last * 1000;
      else {
        from = window.from;
        to = window.to;
      }
    }
    const other = state.compare === null || state.compare === state.run ? undefined : this.runs[state.compare];
    const second = other && other.run.ticks > 0 ? { query: other, shift: begin - other.run.span[0] } : null;
    return {
      query,
      second,
      filter: filterOf(state),
      statement: state.statement,
      part: state.part,
      from,
      to: Math.max(to, from + 1000),
    };
  }

  private draw(): void {
    const started = performance.now();
    const scene = this.makeScene();
    this.theScene = scene;
    this.main.hidden = scene === null;
    this.welcome.draw(scene === null, this.live !== null, this.liveState);
    const silent = this.live !== null && this.state.paused === null && performance.now() - this.heard > SILENT_MS;
    const trouble =
      this.live && (this.liveState !== "live" || silent)
        ? "the live stream is silent: the data plane may be down; the browser keeps trying"
        : null;
    this.bar.draw(scene, this.live ? (trouble ? "lost" : "live") : "file");
    if (!scene) return;
    this.well.draw(scene, trouble);
    this.difference.draw(scene);
    this.drawChosen(scene);
    for (const chart of this.charts.values()) chart.invalidate();
    if (performance.now() - this.statementsDrawn > STATEMENTS_MS) this.drawStatements(scene);
    hostFacts(this.facts, scene.query.run);
    performance.measure("draw", { start: started });
  }

  private drawStatements(scene: Scene): void {
    this.statementsDrawn = performance.now();
    this.statements.draw(scene, this.state);
  }

  private drawChosen(scene: Scene): void {
    const { statement } = this.state;
    const shown = this.statements.charts.dataset.statement ?? null;
    if (statement === shown) return;
    for (const chart of this.statementCharts) this.forget(chart);
    this.statementCharts = [];
    if (statement === null) {
      delete this.statements.charts.dataset.statement;
      this.statements.clearChosen();
      return;
    }
    this.statements.charts.dataset.statement = statement;
    this.statements.drawChosen(
      scene.query.run.statements.get(statement)?.text ?? "its text is not in this source",
      statement,
    );
    this.statementCharts = statementPanels().map((panel) => this.chart(panel));
    this.statements.charts.append(h("div", { class: "charts" }, ...this.statementCharts.map((chart) => chart.element)));
  }

  private chart(panel: Panel): Chart {
    const chart = new Chart(panel, this);
    this.charts.set(chart.element, chart);
    this.seen.observe(chart.element);
    this.sized.observe(chart.plotElement);
    return chart;
  }

  private forget(chart: Chart): void {
    this.seen.unobserve(chart.element);
    this.sized.unobserve(chart.plotElement);
    this.charts.delete(chart.element);
  }

  private section(section: (typeof SECTIONS)[number]): HTMLElement {
    const charts = section.panels.map((panel) => this.chart(panel).element);
    const choice = section.id === "latency" ? this.bar.partChoice() : null;
    return h(
      "section",
      { id: section.id },
      h("header", {}, h("h2", {}, section.question), h("p", { class: "advice" }, section.advice), choice),
      charts.length > 0 && h("div", { class: "charts" }, ...charts),
      section.id === "statements" && this.statements.element,
      section.id === "host" && this.facts,
    );
  }

  // ------------------------------------------------------------------- events

  private listen(): void {
    window.addEventListener("hashchange", () => this.restore());
    for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
      matchMedia(query).addEventListener("change", () => this.dress());
    }
    this.root.addEventListener("click", (event) => {
      const section = (event.target as Element).closest<HTMLElement>("[data-section]")?.dataset.section;
      if (section === undefined) return;
      event.preventDefault();
      this.go(section);
    });
    document.addEventListener("keydown", (event) => this.onKey(event));
    document.addEventListener("pointerdown", (event) => closeMenus(event.target as Node));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer) void this.welcome.take(event.dataTransfer).then((sources) => this.open(sources));
    });
  }

  go(section: string): void {
    const element = document.getElementById(section);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    element?.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
    const heading = element?.querySelector<HTMLElement>("h2");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus({ preventScroll: true });
  }

  private onKey(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (event.key === "Escape") closeMenus(null);
    if (target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "p" || (event.key === " " && target === document.body)) {
      event.preventDefault();
      this.pause();
    } else if (event.key === "/") {
      event.preventDefault();
      document.getElementById("statement-search")?.focus();
    } else if (event.key === "o") this.bar.pickFiles();
    else if (event.key === "a") this.setWindow("all");
    else if (event.key === "0") this.setWindow(null);
    else if (/^[1-9]$/.test(event.key)) {
      const section = ["well", ...SECTIONS.map((one) => one.id)][Number(event.key) - 1];
      if (section) this.go(section);
    }
  }
}

function closeMenus(except: Node | null): void {
  for (const menu of document.querySelectorAll<HTMLDetailsElement>("details.menu[open]")) {
    if (!except || !menu.contains(except)) menu.open = false;
  }
}
