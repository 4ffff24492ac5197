/** What may happen in the simulated world, and how often against everything else. */
import type { World } from "./world.js";

/** An event: true where it could happen. */
type Event = (world: World) => boolean;

/** What may happen, and how often against the others. */
const EVENTS: readonly (readonly [weight: number, name: string, event: Event])[] = [
  [36, "things move on", (w) => w.moveOn(1 + w.random.below(4))],
  [8, "the client submits", (w) => w.submit()],
  [3, "the client cancels", (w) => w.cancel()],
  [2, "the client's link is cut", (w) => w.cutClient()],
  [3, "the agent's link is cut", (w) => w.cutAgent()],
  [2, "a service is killed", (w) => w.killService()],
  [3, "a service starts", (w) => w.startService()],
  [3, "the agent is killed", (w) => w.killAgent()],
  [1, "the machine dies", (w) => w.killMachine()],
  [4, "the agent starts", (w) => w.startAgent()],
  [1, "the agent drains", (w) => w.drainAgent()],
  [4, "a worker is killed", (w) => w.killWorker()],
  [2, "a time limit passes", (w) => w.agent?.expireOne() ?? false],
  [4, "a statement fails or loses its reply", (w) => w.loseReply()],
  [1, "the disk is full, or free", (w) => w.toggleDisk()],
  [2, "the journal is synced", (w) => w.syncJournal()],
  [1, "the journal is compacted", (w) => w.compactJournal()],
  [2, "a function's definition comes", (w) => w.functionComes()],
  [2, "a hint is lost", (w) => w.hints.shift() !== undefined],
  [1, "a sweep", (w) => w.sweep()],
];
/** Each event as often as it weighs. */
export const BY_WEIGHT = EVENTS.flatMap((event) => Array.from({ length: event[0] }, () => event));
