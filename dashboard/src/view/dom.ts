// Making elements. Text is only ever text: nothing that comes from a file or a stream is read as HTML.

type Child = Node | string | null | undefined | false;

export interface Attributes {
  class?: string;
  on?: Record<string, (event: never) => void>;
  [name: string]: unknown;
}

function fill(element: Element, attributes: Attributes, children: Child[]): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value as Record<string, EventListener>)) {
        element.addEventListener(event, listener);
      }
    } else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child !== null && child !== undefined && child !== false) element.append(child);
}

export function h<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  fill(element, attributes, children);
  return element;
}

export function s<Tag extends keyof SVGElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[Tag] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, attributes, children);
  return element;
}

/** A sample of a line in a legend: its colour and its dash. */
export function sample(colour: string, dash: string | number[]): SVGSVGElement {
  return s(
    "svg",
    { class: "sample", width: 22, height: 10, viewBox: "0 0 22 10", "aria-hidden": "true" },
    s("line", {
      x1: 0,
      y1: 5,
      x2: 22,
      y2: 5,
      stroke: colour,
      "stroke-width": 2.5,
      "stroke-dasharray": typeof dash === "string" ? undefined : dash.join(" "),
    }),
  );
}

/** A small line without axes. */
export function sparkline(values: number[], width = 88, height = 20): SVGSVGElement {
  const highest = Math.max(...values, 1e-12);
  const step = values.length > 1 ? width / (values.length - 1) : width;
  const points = values.map(
    (value, index) => `${(index * step).toFixed(1)},${(height - 2 - (value / highest) * (height - 4)).toFixed(1)}`,
  );
  return s(
    "svg",
    { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    s("polyline", { points: points.join(" "), fill: "none", stroke: "currentColor", "stroke-width": 1.25 }),
  );
}

export function download(name: string, blob: Blob): void {
  const address = URL.createObjectURL(blob);
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  window.setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
