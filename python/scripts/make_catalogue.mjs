/**
 * Writes src/farloom/_catalogue.py from the one error catalogue (packages/protocol). `--check` writes nothing and
 * fails where the two differ; the tests run it so. Needs a built packages/protocol.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ERRORS } from "../../packages/protocol/dist/index.js";

/** As ruff writes it: in the quotes that need the fewest escapes. */
const literal = (text) => (text.includes('"') && !text.includes("'") ? `'${text}'` : JSON.stringify(text));

const target = fileURLToPath(new URL("../src/farloom/_catalogue.py", import.meta.url));

const entries = Object.entries(ERRORS).map(
  ([code, { status, retryable, message }]) =>
    `    "${code}": (\n        ${status},\n        ${retryable ? "True" : "False"},\n        ${literal(message)},\n    ),\n`,
);
const text = `"""Every error that Farloom tells: code to (HTTP status, may the same request succeed later, message).

Made by scripts/make_catalogue.mjs from packages/protocol/src/errors/catalogue.ts. Not edited by hand.
"""

# ruff: noqa: E501

ERRORS: dict[str, tuple[int, bool, str]] = {
${entries.join("")}}
`;

if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== text) {
    process.stderr.write(
      "_catalogue.py differs from the catalogue: node python/scripts/make_catalogue.mjs\n",
    );
    process.exitCode = 1;
  }
} else writeFileSync(target, text);
