/** What a bundle was made of, so that one which is older than what was compiled can be told. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, sep } from "node:path";

/** The SHA-256, in hex, of all that the compiler made in `dist`. */
export function compiledDigest(dist) {
  const files = readdirSync(dist, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".js") && !path.startsWith(`bundle${sep}`))
    .sort();
  const hash = createHash("sha256");
  for (const path of files) hash.update(`${path}\0`).update(readFileSync(join(dist, path)));
  return hash.digest("hex");
}
