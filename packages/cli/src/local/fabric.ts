/**
 * A fabric on this machine: the service, and for `farloom dev` an endpoint beside it. Starting is in order, so that
 * each part finds what it needs; stopping is in the reverse order.
 */
import { readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type EndpointInfo, Farloom } from "@farloom/sdk";
import { CliError, CONFLICT, INTERNAL } from "../exit-codes.js";
import { agentStatus, enrolAgent, stopAgent } from "./agent.js";
import type { Problem } from "./log.js";
import { Part } from "./part.js";
import { freePort, type LocalState, lockState, readSettings, saveSettings } from "./state.js";

export interface FabricOptions {
  readonly state: LocalState;
  readonly host: string;
  /** Undefined: the one of the last time, or 8722, or the next free one. */
  readonly port: number | undefined;
  readonly logLevel: string;
  readonly tell: (part: string, problem: Problem) => void;
  /** A part cannot be kept running. */
  readonly onGivenUp: (message: string) => void;
}

export interface RunningService {
  readonly url: string;
  readonly apiKey: string;
  /** With which the first administrator makes an account in a browser; undefined where there is somebody. */
  readonly firstAdminToken: string | undefined;
  readonly part: Part;
}

const DEFAULT_PORT = 8722;
/** How long an orphan of a killed `farloom dev` takes to notice and end. */
const ORPHAN_MS = 15_000;
/** The endpoint's first connection; on a laptop it takes a second. */
const CONNECT_MS = 30_000;

/** Takes the state folder for this process. @throws CliError where another one has it */
export function claim(state: LocalState): { release(): void; tell(url: string): void } {
  const lock = lockState(state);
  if (!("heldBy" in lock)) return lock;
  const { pid, url } = lock.heldBy;
  throw new CliError(
    `it runs already on ${state.root}: process ${pid}${url ? `, ${url}` : ""}`,
    CONFLICT,
    "use that one, or another folder with --state-dir",
  );
}

export async function startService(options: FabricOptions): Promise<RunningService> {
  const { state, host } = options;
  const port = await choosePort(options);
  let firstAdminToken: string | undefined;
  const part = new Part({
    name: "the service",
    onReady: (message) => {
      firstAdminToken = message.firstAdminToken;
    },
    app: "web-service",
    args: [],
    env: {
      FARLOOM_STATE_DIR: state.service,
      FARLOOM_HOST: host,
      FARLOOM_PORT: String(port),
      FARLOOM_BOOTSTRAP_KEY_FILE: state.apiKeyFile,
      FARLOOM_LOG_LEVEL: options.logLevel,
    },
    logFile: join(state.logs, "service.log"),
    ...reports("service", options),
  });
  let url: string;
  try {
    url = await part.start();
  } catch (error) {
    throw new CliError((error as Error).message, INTERNAL, `its log: ${join(state.logs, "service.log")}`);
  }
  saveSettings(state, { ...readSettings(state), port: Number(new URL(url).port) });
  return { url, apiKey: readFileSync(state.apiKeyFile, "utf8").trim(), firstAdminToken, part };
}

export interface RunningAgent {
  readonly endpoint: EndpointInfo;
  readonly part: Part;
}

/** Makes this machine the endpoint `name` of the service, and runs its agent until it is connected. */
export async function startEndpoint(
  options: FabricOptions,
  service: RunningService,
  name: string,
): Promise<RunningAgent> {
  const { state } = options;
  const farloom = new Farloom({ url: service.url, apiKey: service.apiKey });
  try {
    // Left by a `farloom dev` that was killed: it would hold the folder's lock.
    await stopAgent(state.agent, ORPHAN_MS);
    const id = await enrolled(farloom, options, { url: service.url, name });
    const part = new Part({
      name: "the endpoint's agent",
      app: "endpoint-agent",
      args: ["run", "--state-dir", state.agent],
      env: {
        FARLOOM_SERVICE_URL: service.url,
        FARLOOM_LOG_LEVEL: options.logLevel,
        FARLOOM_AGENT_STOP_WORKERS: "true",
        FARLOOM_AGENT_DRAIN_MS: "2000",
      },
      logFile: join(state.logs, "agent.log"),
      ...reports("endpoint", options),
    });
    void part.start().catch(() => {});
    try {
      return { endpoint: await connected(farloom, id, join(state.logs, "agent.log")), part };
    } catch (error) {
      await part.stop();
      throw error;
    }
  } finally {
    await farloom.close();
  }
}

/** The endpoint's id, after seeing to it that the agent's folder is enrolled as one that the service knows. */
async function enrolled(
  farloom: Farloom,
  { state }: FabricOptions,
  where: { url: string; name: string },
): Promise<string> {
  const { identity } = await agentStatus(state.agent);
  const known = await all(farloom);
  if (identity !== undefined) {
    const same = known.find((endpoint) => endpoint.id === identity.endpointId && endpoint.enrolled !== false);
    if (same) return same.id;
    // Of another service, or deleted there: set aside, as its journal may hold results.
    renameSync(state.agent, `${state.agent}.old-${Date.now()}`);
  }
  const there = known.find((endpoint) => endpoint.name === where.name);
  const { id, enrolmentCode } = there
    ? await farloom.endpoints.newCode(there.id)
    : await farloom.endpoints.create(where.name);
  await enrolAgent(state.agent, where.url, enrolmentCode);
  return id;
}

async function connected(farloom: Farloom, id: string, logFile: string): Promise<EndpointInfo> {
  const endMs = performance.now() + CONNECT_MS;
  while (performance.now() < endMs) {
    const endpoint = await farloom.endpoints.get(id);
    if (endpoint.connected) return endpoint;
    await sleep(100);
  }
  throw new CliError("the endpoint's agent has not connected within 30 s", INTERNAL, `its log: ${logFile}`);
}

async function all(farloom: Farloom): Promise<EndpointInfo[]> {
  const endpoints: EndpointInfo[] = [];
  for await (const endpoint of farloom.endpoints.all()) endpoints.push(endpoint);
  return endpoints;
}

async function choosePort({ state, host, port }: FabricOptions): Promise<number> {
  if (port === 0) return 0;
  const wanted = port ?? readSettings(state).port ?? DEFAULT_PORT;
  const found = await freePort(host, wanted);
  if (found === wanted) return found;
  if (port !== undefined)
    throw new CliError(`port ${port} is taken`, CONFLICT, "choose another with --port, or none");
  if (readSettings(state).port !== wanted) return found;
  // Perhaps the service of a `farloom dev` that was killed, which is about to end.
  const endMs = performance.now() + ORPHAN_MS;
  while (performance.now() < endMs) {
    if ((await freePort(host, wanted)) === wanted) return wanted;
    await sleep(250);
  }
  return await freePort(host, wanted);
}

function reports(name: string, options: FabricOptions) {
  return {
    onProblem: (problem: Problem) => options.tell(name, problem),
    onRestart: (how: string) => options.tell(name, { level: "warning", text: `${how}; it is started again` }),
    onGivenUp: (how: string) => options.onGivenUp(`the ${name} ${how}, again and again`),
  };
}
