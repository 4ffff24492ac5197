/** An agent of its own, in its own folder, against a fake service and a node of the test's making. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { type Agent, runAgent } from "../../apps/endpoint-agent/src/agent.js";
import { type AgentOptions, resolveConfig } from "../../apps/endpoint-agent/src/config.js";
import { enroll } from "../../apps/endpoint-agent/src/enrolment.js";
import { EchoNode, type EchoNodeOptions } from "./echo-node.js";
import type { FakeService } from "./fake-service.js";

/** A fresh state folder, enrolled with the fake service. */
export async function enrolledStateDir(service: FakeService): Promise<{ stateDir: string; remove(): void }> {
  const parent = mkdtempSync(join(tmpdir(), "farloom-agent-"));
  const stateDir = join(parent, "state");
  await enroll({ serviceUrl: service.url, code: "good-code", stateDir });
  return { stateDir, remove: () => rmSync(parent, { recursive: true, force: true }) };
}

export interface EchoAgent {
  readonly agent: Agent;
  readonly node: EchoNode;
}

/** An agent with an echo node. */
export async function startEchoAgent(
  stateDir: string,
  node: EchoNodeOptions = {},
  options: AgentOptions = {},
): Promise<EchoAgent> {
  let echo: EchoNode | undefined;
  const level = process.env.FARLOOM_TEST_LOG ?? "silent";
  const agent = await runAgent(
    resolveConfig({ stateDir, workers: 1, ...options }, {}),
    ({ port }) => {
      echo = new EchoNode(port, node);
      return echo;
    },
    pino({ level }),
  );
  return { agent, node: echo! };
}
