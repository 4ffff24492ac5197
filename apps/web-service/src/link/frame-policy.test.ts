import { describe, expect, it } from "vitest";
import type { Principal, Scope } from "../identity/principal.js";
import { assertFramePolicies, CLIENT_FRAMES, requireFrame } from "./frame-policy.js";

const principal = (...scopes: Scope[]): Principal => ({ scopes: new Set(scopes) }) as unknown as Principal;

describe("frame policies", () => {
  it("are declared for every frame of both doors", () => {
    expect(() => assertFramePolicies()).not.toThrow();
  });

  it("stop the start where a frame has none", () => {
    const doors = [{ kinds: new Set(["tasks", "teleport"]), policies: CLIENT_FRAMES }];
    expect(() => assertFramePolicies(doors)).toThrow(/"teleport" declares no policy/);
  });

  it("ask for the scope of what a frame does, and for nothing where it belongs to the link", () => {
    expect(() => requireFrame(principal(), "mark")).not.toThrow();
    expect(() => requireFrame(principal("tasks:read"), "tasks")).toThrow(/tasks:submit/);
    expect(() => requireFrame(principal("tasks:submit"), "watch")).toThrow(/tasks:read/);
    expect(() => requireFrame(principal("tasks:cancel"), "cancel")).not.toThrow();
  });
});
