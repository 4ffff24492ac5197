/**
 * The lanes of boxed workers: besides its program, a worker of one has a network or has none, and works for one
 * submitter alone, as what a task leaves in the memory of a warm worker the next one can find. Bound: idle workers
 * beyond the number of places are retired, and lanes without tasks and workers are forgotten (dispatcher.ts).
 */
import type { FunctionDefinition, NetworkPolicy } from "@farloom/protocol";

/** Ahead of the program's lane, which holds an interpreter's name and so may hold anything. */
const PREFIX = /^box:([01]):([^:]{0,64}):/;
/** A person's id. Whatever else a service says becomes one that nobody has. */
const SUBMITTER = /^[0-9a-f-]{1,64}$/;

/** `submitter`: undefined for the endpoint's owner. */
export function boxedLane(laneName: string, hasNetwork: boolean, submitter?: string): string {
  const who = submitter === undefined ? "" : SUBMITTER.test(submitter) ? submitter : "unknown";
  return `box:${hasNetwork ? 1 : 0}:${who}:${laneName}`;
}

/** A boxed lane's program lane, and what it wants of its sandbox. */
export function partsOfLane(name: string): { readonly program: string; readonly network: boolean } {
  const match = PREFIX.exec(name);
  return match === null
    ? { program: name, network: false }
    : { program: name.slice(match[0].length), network: match[1] === "1" };
}

/** Whether a function's workers have the network. */
export function hasNetwork(policy: NetworkPolicy, definition: FunctionDefinition): boolean {
  return policy === "functions" ? definition.env.network === true : policy;
}
