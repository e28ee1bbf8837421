// Where it begins: data inside the page, addresses in the link, the data plane that served the page, or files that are to come.

import "./style/page.css";
import { Page } from "./page.ts";
import type { Source } from "./source/file.ts";
import { isThere } from "./source/live.ts";

/** Series that a report carries: `<script type="application/x-ndjson">`, plain or as base64 of gzip. */
function embedded(): Source[] {
  return [...document.querySelectorAll<HTMLScriptElement>('script[type="application/x-ndjson"]')].map(
    (element, index) => {
      const name = element.dataset.name ?? `report ${index + 1}`;
      const text = element.textContent ?? "";
      if (element.dataset.encoding === "base64")
        return { name, bytes: Uint8Array.from(atob(text.trim()), (char) => char.charCodeAt(0)) };
      return { name, bytes: new TextEncoder().encode(text) };
    },
  );
}

async function begin(): Promise<void> {
  const root = document.getElementById("app");
  if (!root) return;
  const page = new Page(root);
  const inside = embedded();
  if (inside.length > 0) await page.open(inside);
  else if (
    page.state.sources.length === 0 &&
    location.protocol.startsWith("http") &&
    (await isThere(document.baseURI))
  ) {
    page.follow(new URL("api/v1/live", document.baseURI).href);
  }
}

void begin();
