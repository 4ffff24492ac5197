import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { parseRequirement, satisfies } from "./requirements.js";

const vectors = JSON.parse(
  readFileSync(new URL("../../../../packages/protocol/vectors/requirements.json", import.meta.url), "utf8"),
) as { holds: [text: string, version: string, holds: boolean][]; refused: string[] };

it("packages are compared as the Python client compares them", () => {
  for (const [text, version, holds] of vectors.holds)
    expect([text, version, satisfies(version, parseRequirement(text)!)]).toEqual([text, version, holds]);
  for (const text of vectors.refused) expect(parseRequirement(text), text).toBeUndefined();
  expect(parseRequirement("Zope.Interface_x [test]>=5")?.name).toBe("zope-interface-x");
});
