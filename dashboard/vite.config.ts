// The dashboard as the data plane or any static server serves it: hashed files below assets/, nothing inline.
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

// jsPDF reaches for these to draw HTML; we draw SVG, so they are left out
const nothing = fileURLToPath(new URL("src/export/nothing.ts", import.meta.url));

export default defineConfig({
  base: "./",
  resolve: { alias: { html2canvas: nothing, canvg: nothing, dompurify: nothing } },
  build: {
    target: "es2022",
    outDir: "dist",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1200,
  },
  test: { include: ["test/unit/**/*.test.ts"] },
});
