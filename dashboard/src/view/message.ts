// What the page says when there is nothing to show yet, and about what it could not read.

import type { Source } from "../source/file.ts";
import type { LiveState } from "../source/live.ts";
import type { Complaint } from "../source/schema.ts";
import { h } from "./dom.ts";

const SHOWN_MAX = 200;

/** Complaints, newest source last; they stay until put away. */
export class Messages {
  readonly element = h("section", { class: "messages", "aria-label": "What could not be read", hidden: true });
  private readonly list: Complaint[] = [];

  add(complaints: Complaint[]): void {
    if (complaints.length === 0) return;
    this.list.push(...complaints);
    this.draw();
  }

  private draw(): void {
    const sources = [...new Set(this.list.map((complaint) => complaint.source))];
    const lines = this.list.slice(0, SHOWN_MAX).map((complaint) => {
      const place = complaint.line === undefined ? complaint.source : `${complaint.source}, line ${complaint.line}`;
      return h("li", {}, h("strong", {}, place), ": ", complaint.reason);
    });
    const more = this.list.length - lines.length;
    const what =
      this.list.length === 1 ? "One thing could not be read" : `${this.list.length} things could not be read`;
    this.element.hidden = false;
    this.element.replaceChildren(
      h(
        "div",
        { role: "alert" },
        h(
          "p",
          {},
          h("strong", {}, `${what} in ${sources.length === 1 ? sources[0] : `${sources.length} sources`}.`),
          " What can be read is shown.",
        ),
      ),
      h("ul", {}, ...lines, more > 0 && h("li", {}, `and ${more} more`)),
      h(
        "button",
        {
          type: "button",
          on: {
            click: () => {
              this.list.splice(0, this.list.length);
              this.element.hidden = true;
            },
          },
        },
        "Put away",
      ),
    );
  }
}

/** Asks the system for files. */
export function pick(take: (sources: Source[]) => void): void {
  const input = h("input", { type: "file", multiple: true, hidden: true, "aria-hidden": "true" });
  input.addEventListener("change", () => {
    void read([...(input.files ?? [])]).then(take);
    input.remove();
  });
  document.body.append(input);
  input.click();
}

async function read(files: File[]): Promise<Source[]> {
  return Promise.all(
    files.map(async (file) => ({
      name: file.name,
      bytes: new Uint8Array(await file.arrayBuffer()),
      modified: file.lastModified,
    })),
  );
}

function entries(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  return new Promise((resolve, reject) => {
    const all: FileSystemEntry[] = [];
    const next = () =>
      reader.readEntries((some) => {
        all.push(...some);
        if (some.length === 0) resolve(all);
        else next();
      }, reject);
    next();
  });
}

async function filesOf(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile)
    return [await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject))];
  const inside = await entries(entry as FileSystemDirectoryEntry);
  const lists = await Promise.all(inside.map(filesOf));
  return lists.flat();
}

export class Welcome {
  readonly element: HTMLElement;
  private readonly title = h("h2");
  private readonly text = h("p");
  private readonly form: HTMLElement;

  constructor(
    private readonly opened: (sources: Source[]) => void,
    fetchFrom: (address: string) => void,
  ) {
    const address = h("input", {
      type: "text",
      id: "address",
      placeholder: "run/optimacore.ndjson",
      autocomplete: "off",
    });
    this.form = h(
      "div",
      { class: "ways" },
      h("button", { type: "button", class: "primary", on: { click: () => pick(this.opened) } }, "Open files"),
      h(
        "form",
        {
          on: {
            submit: (event: SubmitEvent) => {
              event.preventDefault();
              if (address.value.trim() !== "") fetchFrom(address.value.trim());
            },
          },
        },
        h("label", { for: "address" }, "or an address"),
        address,
        h("button", { type: "submit" }, "Fetch"),
      ),
    );
    this.element = h("main", { class: "welcome", id: "welcome" }, this.title, this.text, this.form);
  }

  draw(shown: boolean, live: boolean, state: LiveState): void {
    this.element.hidden = !shown;
    if (!shown) return;
    this.form.hidden = live && state === "live";
    if (live) {
      this.title.textContent =
        state === "live" ? "The first second is being measured" : "No answer from the data plane";
      this.text.textContent =
        state === "live"
          ? "Charts appear with the first tick of the stream."
          : "The live stream cannot be reached; the browser keeps trying. Files of earlier runs can be opened meanwhile.";
    } else {
      this.title.textContent = "Open a run";
      this.text.textContent =
        "Drop the files of an export directory or of a benchmark here: .ndjson, .ndjson.gz, .hlog, .prom, run.json, or the whole directory. Two runs at once are compared.";
    }
  }

  /** Files and folders that were dropped. */
  async take(data: DataTransfer): Promise<Source[]> {
    const dropped = [...data.items].map((item) => item.webkitGetAsEntry?.() ?? null);
    if (dropped.every((entry) => entry === null)) return read([...data.files]);
    const lists = await Promise.all(dropped.filter((entry) => entry !== null).map(filesOf));
    return read(lists.flat());
  }
}
