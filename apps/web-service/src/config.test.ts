import { describe, expect, it } from "vitest";
import { ConfigError, resolveConfig } from "./config.js";

describe("resolveConfig", () => {
  it("has defaults that reach no further than this machine", () => {
    const config = resolveConfig({}, { XDG_STATE_HOME: "/state" });
    expect(config).toMatchObject({
      host: "127.0.0.1",
      port: 8722,
      stateDir: "/state/farloom",
      retentionDays: 7,
      logLevel: "info",
    });
    expect(config).toMatchObject({
      databaseUrl: undefined,
      redisUrl: undefined,
      bootstrapKeyFile: undefined,
      bootstrapOwner: "me",
    });
    expect(Object.isFrozen(config)).toBe(true);
  });

  it("takes the option before the environment, and an empty variable for none", () => {
    const env = {
      FARLOOM_PORT: "1",
      FARLOOM_HOST: "",
      DATABASE_URL: "postgres://a/b",
      FARLOOM_PUBLIC_URL: "https://x.example/",
    };
    expect(resolveConfig({}, env)).toMatchObject({
      port: 1,
      host: "127.0.0.1",
      databaseUrl: "postgres://a/b",
      publicUrl: "https://x.example",
    });
    expect(resolveConfig({ port: 2 }, env).port).toBe(2);
    expect(resolveConfig({ port: 0 }, env).port).toBe(0);
  });

  it.each([
    ["FARLOOM_PORT", "80a"],
    ["FARLOOM_PORT", "70000"],
    ["FARLOOM_PORT", "-1"],
    ["FARLOOM_PORT", "0x10"],
    ["FARLOOM_RETENTION_DAYS", "0"],
    ["FARLOOM_LOG_LEVEL", "loud"],
    ["FARLOOM_PUBLIC_URL", "ftp://x"],
    ["DATABASE_URL", "mysql://u:secret@h/d"],
    ["REDIS_URL", "localhost:6379"],
    ["FARLOOM_BOOTSTRAP_OWNER", "Me/you"],
    ["FARLOOM_ALLOWED_HOSTS", "a.example, *.example"],
    ["FARLOOM_ALLOWED_HOSTS", "https://a.example"],
  ])("names %s where it is %s", (variable, value) => {
    const parse = () => resolveConfig({}, { [variable]: value });
    expect(parse).toThrow(ConfigError);
    expect(parse).toThrow(variable);
  });

  it("never repeats a URL, which may hold a password", () => {
    expect(() => resolveConfig({}, { DATABASE_URL: "mysql://u:secret@h/d" })).toThrow(/^(?!.*secret)/);
  });
});
