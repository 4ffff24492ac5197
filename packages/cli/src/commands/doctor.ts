/** `farloom doctor`: what stands between you and a result, each with its cure. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { configPath, Farloom } from "@farloom/sdk";
import type { Command } from "commander";
import type { Context, GlobalOptions } from "../context.js";
import { FAILED } from "../exit-codes.js";
import { agentStateDir, agentStatus } from "../local/agent.js";

interface Check {
  readonly name: string;
  /** `skip`: it could not be looked at, because something above failed. */
  readonly state: "ok" | "warning" | "failed" | "skip";
  readonly detail: string;
  readonly cure?: string;
}

/** Beyond this, times in logs of different machines do not line up, and tokens begin to fail. */
const MAX_SKEW_MS = 5_000;
const KEY_ENDS_SOON_MS = 7 * 86_400_000;

export function addDoctor(program: Command, { output, result }: Context): void {
  program
    .command("doctor")
    .description("check everything between you and a result, and say how to mend it")
    .action(async (_options: object, command: Command) => {
      const checks: Check[] = [node(), await python()];
      checks.push(...(await remote(command.optsWithGlobals<GlobalOptions>().url)));
      checks.push(await localAgent());
      if (checks.some((check) => check.state === "failed")) result.code = FAILED;
      const marks = {
        ok: output.style("green", "✓"),
        warning: output.style("yellow", "!"),
        failed: output.style("red", "✗"),
        skip: output.style("dim", "-"),
      };
      output.result(checks, () =>
        checks
          .map(
            ({ name, state, detail, cure }) =>
              `${marks[state]} ${name}: ${detail}${cure ? `\n    ${output.style("cyan", "→")} ${cure}` : ""}`,
          )
          .join("\n"),
      );
    });
}

function node(): Check {
  const { node: version } = process.versions;
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const good = major > 20 || (major === 20 && minor >= 19);
  return {
    name: "Node.js",
    state: good ? "ok" : "failed",
    detail: version,
    ...(!good && { cure: "install Node.js 20.19 or newer" }),
  };
}

async function python(): Promise<Check> {
  const command = process.env.FARLOOM_AGENT_PYTHON || "python3";
  try {
    const { stdout } = await promisify(execFile)(command, [
      "-c",
      "import sys; print('%d.%d.%d' % sys.version_info[:3])",
    ]);
    return { name: "Python", state: "ok", detail: `${stdout.trim()} (${command})` };
  } catch {
    const cure = "install python3, or set FARLOOM_AGENT_PYTHON; only endpoints on this machine need it";
    return { name: "Python", state: "warning", detail: `${command} does not run`, cure };
  }
}

async function remote(url: string | undefined): Promise<Check[]> {
  let farloom: Farloom;
  try {
    farloom = new Farloom({ requestAttempts: 1, ...(url && { url }) });
  } catch (error) {
    return [
      {
        name: "configuration",
        state: "failed",
        detail: (error as Error).message,
        cure: "farloom dev, or farloom login --url URL",
      },
    ];
  }
  const checks: Check[] = [
    { name: "configuration", state: "ok", detail: `${farloom.options.url} (${sourceOf(url)})` },
  ];
  try {
    checks.push(...(await service(farloom)));
    if (checks.some((check) => check.state === "failed")) return checks;
    checks.push(...(await key(farloom)));
    checks.push(await endpoint(farloom));
    return checks;
  } finally {
    await farloom.close();
  }
}

function sourceOf(url: string | undefined): string {
  if (url !== undefined) return "--url";
  return process.env.FARLOOM_URL ? "FARLOOM_URL" : configPath();
}

async function service(farloom: Farloom): Promise<Check[]> {
  const startMs = performance.now();
  try {
    const { headers } = await farloom.rest.send({ path: "/health/ready", timeoutMs: 5_000 });
    const ms = performance.now() - startMs;
    const skewMs = headers.date ? Date.now() - ms / 2 - Date.parse(headers.date) - 500 : 0;
    const good = Math.abs(skewMs) < MAX_SKEW_MS;
    return [
      { name: "service", state: "ok", detail: `ready, answers in ${ms.toFixed(0)} ms` },
      {
        name: "clock",
        state: good ? "ok" : "warning",
        detail: good
          ? "agrees with the service's"
          : `${Math.abs(skewMs / 1000).toFixed(0)} s ${skewMs > 0 ? "ahead of" : "behind"} the service's`,
        ...(!good && { cure: "set this machine's clock by NTP" }),
      },
    ];
  } catch (error) {
    return [
      {
        name: "service",
        state: "failed",
        detail: (error as Error).message,
        cure: "start it (farloom dev), or name another (farloom login --url URL)",
      },
    ];
  }
}

async function key(farloom: Farloom): Promise<Check[]> {
  const isLogin = farloom.options.login !== undefined;
  const name = isLogin ? "login" : "API key";
  try {
    const me = await farloom.rest.json<{
      owner: string;
      expiresAt: string;
      scopes: string[];
      tenantWall?: boolean;
    }>({
      path: "/v1/me",
    });
    const leftMs = Date.parse(me.expiresAt) - Date.now();
    // A login's token is replaced by itself.
    const soon = !isLogin && leftMs < KEY_ENDS_SOON_MS;
    const until = isLogin ? "" : `, until ${me.expiresAt.slice(0, 10)}`;
    const valid: Check = {
      name,
      state: soon ? "warning" : "ok",
      detail: `${me.owner}${until}, ${me.scopes.length} scopes`,
      ...(soon && { cure: "farloom keys create, then farloom login" }),
    };
    return me.tenantWall === undefined ? [valid] : [valid, tenantWall(me.tenantWall)];
  } catch (error) {
    return [
      {
        name,
        state: "failed",
        detail: (error as Error).message,
        cure: isLogin ? "farloom login" : "farloom login, or a key that is valid here",
      },
    ];
  }
}

/** Only administrators are told. */
function tenantWall(stands: boolean): Check {
  const name = "tenants";
  if (stands) return { name, state: "ok", detail: "PostgreSQL itself keeps people's rows apart too" };
  return {
    name,
    state: "warning",
    detail: "the service's statements alone keep people's rows apart",
    cure: "give the service a second role by FARLOOM_TENANT_DATABASE_URL (docs/tenancy.md)",
  };
}

async function endpoint(farloom: Farloom): Promise<Check> {
  const name = farloom.options.endpoint;
  try {
    if (name === undefined) {
      const { items } = await farloom.endpoints.list({ limit: 100 });
      const connected = items.filter((item) => item.connected).map((item) => item.name);
      if (connected.length > 0) {
        return {
          name: "endpoint",
          state: "ok",
          detail: `connected: ${connected.join(", ")}`,
          cure: `name one with --endpoint, or FARLOOM_ENDPOINT=${connected[0]}`,
        };
      }
      return {
        name: "endpoint",
        state: "failed",
        detail: "none is connected",
        cure: "farloom endpoint create NAME, and start its agent",
      };
    }
    const info = await farloom.endpoints.get(name);
    if (info.connected) return { name: "endpoint", state: "ok", detail: `${name} is connected` };
    return {
      name: "endpoint",
      state: "failed",
      detail: `${name} is not connected; tasks wait for it`,
      cure: "on its machine: farloom endpoint status, farloom endpoint start",
    };
  } catch (error) {
    return { name: "endpoint", state: "failed", detail: (error as Error).message };
  }
}

async function localAgent(): Promise<Check> {
  const stateDir = agentStateDir(undefined);
  if (!existsSync(stateDir))
    return { name: "agent here", state: "skip", detail: "this machine is no endpoint of its own" };
  try {
    const { running, status, identity } = await agentStatus(stateDir);
    if (running) return { name: "agent here", state: "ok", detail: `endpoint ${String(status?.name)} runs` };
    if (identity === undefined)
      return { name: "agent here", state: "skip", detail: "this machine is no endpoint of its own" };
    return {
      name: "agent here",
      state: "warning",
      detail: `endpoint ${identity.name} does not run`,
      cure: "farloom endpoint start",
    };
  } catch (error) {
    return { name: "agent here", state: "warning", detail: (error as Error).message };
  }
}
