/** The processes of a fabric: how each is started, and when it is ready. They are the products' own entry points. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { askControl } from "../../../apps/endpoint-agent/dist/state/control.js";
import { Member } from "./member.mjs";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const SERVICE_MAIN = join(ROOT, "apps/web-service/dist/bundle/main.js");
const AGENT_MAIN = join(ROOT, "apps/endpoint-agent/dist/bundle/main.js");
const CLIENT_MAIN = fileURLToPath(new URL("../workload/client.mjs", import.meta.url));
/** Sooner than in production, so that a run of minutes sees it happen. */
const SWEEP_MS = 2_000;
const STATUS_MS = 2_000;
const AGENT_DISK_MB = 64;

/** @typedef {import("./fabric.mjs").FaultFabric} FaultFabric */

/** The i-th web service: its port is kept over restarts. */
export function makeService(fabric, i) {
  const name = `service-${i}`;
  const port = fabric.ports[i];
  return withCrashPoint(
    fabric,
    new Member(name, {
      args: () => [SERVICE_MAIN],
      logFile: fabric.logFile(name),
      env: () => ({
        FARLOOM_PORT: String(port),
        FARLOOM_STATE_DIR: join(fabric.folder, "service"),
        FARLOOM_BOOTSTRAP_KEY_FILE: join(fabric.folder, "first.key"),
        FARLOOM_RATE_LIMIT_PER_MINUTE: "1000000000",
        FARLOOM_FAILED_AUTH_PER_MINUTE: "1000000000",
        FARLOOM_SWEEP_MS: String(SWEEP_MS),
        DATABASE_URL: fabric.postgres.urlOf(fabric.database, fabric.link(`postgres-${i}`).port),
        ...fabric.clockOf(name, i === fabric.ports.length - 1),
        ...(fabric.redis ? { REDIS_URL: `redis://127.0.0.1:${fabric.link(`redis-${i}`).port}` } : {}),
        ...envOf(fabric, "service", name),
      }),
      ready: () => isReady(port),
      onEnd: onEnd(fabric, name),
    }),
  );
}

/** The i-th agent, enrolled as an endpoint of its name. */
export async function enrolAgent(fabric, i) {
  const name = `agent-${i}`;
  const link = await fabric.openLink(name, fabric.targetsOf(i));
  const isLast = i === fabric.options.agents - 1;
  const stateDir = isLast ? fabric.disk(name, AGENT_DISK_MB, 0o700) : join(fabric.folder, name);
  const { id, enrolmentCode } = await fabric.request(0, "POST", "/v1/endpoints", { name });
  const service = `http://127.0.0.1:${link.port}`;
  const codeFile = join(fabric.folder, `${name}.code`);
  writeFileSync(codeFile, enrolmentCode, { mode: 0o600 });
  const enrolling = new Member(`${name}-enrolment`, {
    args: () => [
      AGENT_MAIN,
      "enroll",
      "--service",
      service,
      "--code-file",
      codeFile,
      "--state-dir",
      stateDir,
    ],
    logFile: fabric.logFile(name),
    env: () => envOf(fabric, "agent", name),
    restart: false,
  });
  await enrolling.start();
  await enrolling.exited;
  rmSync(codeFile);
  if (enrolling.child?.exitCode !== 0) throw new Error(`${name} did not enrol\n${enrolling.tail()}`);
  const agent = new Member(name, {
    args: () => [AGENT_MAIN, "run", "--state-dir", stateDir, "--workers", String(fabric.options.workers)],
    logFile: fabric.logFile(name),
    env: () => ({
      PYTHONDONTWRITEBYTECODE: "1",
      FARLOOM_AGENT_KILL_GRACE_MS: "1000",
      FARLOOM_AGENT_RECLAIM_MS: String(fabric.reclaimMs),
      ...fabric.clockOf(name, isLast),
      ...envOf(fabric, "agent", name),
    }),
    ready: async () => (await statusOf(stateDir))?.link?.phase === "open",
    onEnd: onEnd(fabric, name),
  });
  return Object.assign(withCrashPoint(fabric, agent), { endpointId: id, stateDir });
}

/** The i-th client, with a link of its own. */
export async function makeClient(fabric, i, settings) {
  const name = `client-${i}`;
  const link = await fabric.openLink(name, fabric.targetsOf(i + 1));
  const order = {
    name,
    url: `http://127.0.0.1:${link.port}`,
    key: fabric.key,
    folder: fabric.folder,
    endpoints: fabric.agents.map(({ endpointId }) => endpointId),
    ...settings,
  };
  const client = new Member(name, {
    args: () => [CLIENT_MAIN],
    logFile: fabric.logFile(name),
    env: () => ({ ...envOf(fabric, "client", name), FARLOOM_FAULTS_CLIENT: JSON.stringify(order) }),
    onEnd: onEnd(fabric, name),
    ipc: true,
  });
  return withCrashPoint(fabric, client);
}

function envOf({ folder, options }, role, name) {
  const { env } = options;
  return { FARLOOM_FAULTS_RUN: folder, FARLOOM_FAULTS_MEMBER: name, ...env.all, ...env[role], ...env[name] };
}

function withCrashPoint({ options }, member) {
  const point = options.crashAt?.[member.name];
  if (point !== undefined) member.envOnce = { FARLOOM_CRASH_AT: point, FARLOOM_TEST_ONLY: "1" };
  return member;
}

function onEnd(fabric, name) {
  return ({ code, signal, tail }) => {
    fabric.crashes.push({ name, code, signal, tail });
    fabric.run.write("ended", { name, code, signal });
  };
}

/** What the agent of that folder says of itself, or undefined where none answers. */
export async function statusOf(stateDir) {
  const late = sleep(STATUS_MS, undefined, { ref: false });
  return /** @type {any} */ (await Promise.race([askControl(join(stateDir, "control.sock")), late]));
}

async function isReady(port) {
  try {
    const response = await fetch(`http://127.0.0.1:${port}/health/ready`, {
      signal: AbortSignal.timeout(1_000),
    });
    return response.ok;
  } catch {
    return false;
  }
}
