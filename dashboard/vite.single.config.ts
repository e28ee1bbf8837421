// The dashboard as one file that opens without a server; `ctl stats --report` and people put data into it.
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { viteSingleFile } from "vite-plugin-singlefile";

const nothing = fileURLToPath(new URL("src/export/nothing.ts", import.meta.url));

export default defineConfig({
  base: "./",
  resolve: { alias: { html2canvas: nothing, canvg: nothing, dompurify: nothing } },
  publicDir: false,
  plugins: [
    viteSingleFile({ removeViteModuleLoader: true }),
    // no file lies beside the page
    {
      name: "without-icon",
      transformIndexHtml: { order: "pre", handler: (html: string) => html.replace(/\n\s*<link rel="icon"[^>]*>/, "") },
    },
  ],
  build: { target: "es2022", outDir: "dist-single", chunkSizeWarningLimit: 2500 },
});
