import { expect, test } from "vitest";
import { isolationText } from "./endpoint.js";

const item = (agentInfo: object | null) =>
  ({ id: "1", name: "e", agentInfo }) as Parameters<typeof isolationText>[0];

test("an endpoint's isolation is its level, its network where that is a question, and what else its machine can do", () => {
  const offers = ["none", "limits", "namespaces"];
  const told = (level: string, network: unknown = false) =>
    isolationText(item({ isolation: { level, network, offers } }));
  expect(told("namespaces")).toBe("namespaces, no network (it can do none, limits)");
  expect(told("namespaces", "functions")).toBe(
    "namespaces, network where asked for (it can do none, limits)",
  );
  expect(told("limits")).toBe("limits (it can do none, namespaces)");
  expect(isolationText(item({ host: "of an older agent" }))).toBe("none");
  expect(isolationText(item(null))).toBeUndefined();
});
