/** Where a bundled source says `import.meta.url`, it means its own place in the package, and not the bundle's. */
import { readFileSync } from "node:fs";
import { relative, sep } from "node:path";

/**
 * A plugin of esbuild for the package in `folder`. The bundle must have a function `__urlOf`, which makes a URL of a path
 * that is relative to the package.
 */
export function ownUrls(folder) {
  return {
    name: "own-urls",
    setup(bundle) {
      bundle.onLoad({ filter: /\.js$/ }, ({ path }) => {
        if (path.includes(`${sep}node_modules${sep}`)) return undefined;
        const text = readFileSync(path, "utf8");
        if (!text.includes("import.meta.url")) return undefined;
        const place = relative(folder, path).split(sep).join("/");
        return {
          contents: text.replaceAll("import.meta.url", `__urlOf(${JSON.stringify(place)})`),
          loader: "js",
        };
      });
    },
  };
}
