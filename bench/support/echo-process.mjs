/** Echo agents in a process of their own, so that their work is not counted as the client's. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const PROGRAM = fileURLToPath(new URL("./echo-agent.mjs", import.meta.url));

/**
 * Resolves once `count` agents are connected. The process ends with `stop`, and with this process.
 * @param {{url: string, apiKey: string}} fabric
 */
export async function startEchoProcess({ url, apiKey }, { count, prefix }) {
  const child = fork(PROGRAM, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  const exited = once(child, "exit");
  const stop = async () => {
    if (child.connected) child.disconnect();
    await exited;
  };
  child.send({ url, apiKey, count, prefix });
  const gone = exited.then(() => {
    throw new Error("the process of the echo agents has ended");
  });
  gone.catch(() => {}); // Its normal end, later on, is no error.
  const [answer] = await Promise.race([once(child, "message"), gone]);
  if (answer.failed) {
    await stop();
    throw new Error(`the echo agents could not connect: ${answer.failed}`);
  }
  return { endpointIds: answer.endpointIds, pid: child.pid, stop };
}
