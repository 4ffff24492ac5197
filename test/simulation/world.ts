/**
 * The simulated world: a client, two replicas of the service on one store, an agent with its journal, a node and its
 * workers, and the network between them. A seed decides everything: what happens next, what is cut, what crashes and
 * how much of a write survives. After some tens of events the faults end, the world comes to rest, and the oracle says
 * whether every promise was kept.
 */
import type { IdKey } from "@farloom/protocol";
import { Agent } from "./agent.js";
import { type Bugs, NO_BUGS } from "./bugs.js";
import { Client } from "./client.js";
import { BY_WEIGHT } from "./events.js";
import { JournalDisk } from "./journal-disk.js";
import { Machine, machineDies, orphanDies, workerActs } from "./node.js";
import { Oracle } from "./oracle.js";
import { Random } from "./random.js";
import { AgentDoor, ClientDoor, type Hint, Service } from "./service.js";
import { Store } from "./store.js";
import { type End, Wire } from "./wire.js";

/** Rounds in which everything that can move moves once; a world that still moves after so many never rests. */
const MOST_ROUNDS = 400;
const MOST_TASKS = 6;

export class World {
  readonly random: Random;
  readonly oracle = new Oracle();
  readonly client = new Client(this.oracle);
  readonly hints: { readonly to: number; readonly hint: Hint }[] = [];
  readonly history = this.oracle.history;
  agent: Agent | undefined;
  readonly #bugs: Bugs;
  readonly #store: Store;
  readonly #disk = new JournalDisk();
  readonly #machine = new Machine();
  readonly #services: (Service | undefined)[] = [undefined, undefined];
  #wires: { readonly wire: Wire; readonly service: Service; readonly ofAgent: boolean }[] = [];
  #boot = 1;
  #tasks = 0;
  #hasFunction = true;

  constructor(seed: number, bugs: Bugs = NO_BUGS) {
    this.random = new Random(seed);
    this.#bugs = bugs;
    this.#store = new Store(this.oracle, bugs);
    this.#hasFunction = !this.random.once(4);
    this.startService();
    if (this.random.once(2)) this.startService();
    this.startAgent();
  }

  /** Some tens of events, then rest. Throws what is wrong. */
  run(): void {
    // Most worlds begin in order: trouble is richest where something is under way.
    for (let n = this.random.below(8); n > 0; n--) this.#everythingOnce();
    // A planted bug is looked for in longer ones.
    const events = (this.#bugs.size > 0 ? 24 : 8) + this.random.below(20);
    for (let i = 0; i < events; i++) {
      const [, name, event] = this.random.pick(BY_WEIGHT)!;
      if (event(this)) this.history.push(name);
    }
    this.history.push("the faults end");
    this.#rest();
    this.oracle.quiet();
  }

  // ─── what happens by itself ──────────────────────────────────────────────────────────────────────────────

  /** Much of what can move does, each part as far as chance has it: not at all, by one step, or as far as it goes. */
  moveOn(rounds: number): boolean {
    const { random } = this;
    for (let i = 0; i < rounds; i++) {
      this.#connect();
      for (const one of [...this.#wires]) {
        for (let n = this.#steps(); n > 0 && one.wire.deliver(true); n--);
        for (let n = this.#steps(); n > 0 && one.wire.deliver(false); n--);
        if (one.wire.isOver) this.#wires.splice(this.#wires.indexOf(one), 1);
      }
      for (const service of this.#services) {
        if (!service) continue;
        for (let n = this.#steps(); n > 0 && service.statements.run(this.#store, random, false); n--);
        for (let n = this.#steps(); n > 0 && service.statements.reply(random); n--);
        if (random.below(4) > 0) service.pump();
      }
      this.#moveAgent();
    }
    return true;
  }

  #steps(): number {
    const n = this.random.below(4);
    return n < 2 ? n : 100;
  }

  #moveAgent(): void {
    const { random, agent } = this;
    for (let n = this.#steps(); n > 0 && agent?.hearNode(); n--);
    if (random.below(4) > 0) agent?.turn(random.once(2));
    for (let n = this.#steps(); n > 0 && agent?.node.feed(); n--);
    for (let n = random.below(4); n > 0; n--) this.#work(true);
    // A drained agent ends by itself, and somebody starts it again.
    if (agent?.draining && random.once(3)) this.killAgent();
    if (random.once(6)) this.startAgent();
  }

  #nodeDeps() {
    return { machine: this.#machine, oracle: this.oracle, random: this.random, bugs: this.#bugs };
  }

  #work(mayFail: boolean): boolean {
    if (this.random.once(3) && this.agent?.node.stopCancelled()) return true;
    return workerActs(this.#nodeDeps(), this.agent?.node, mayFail);
  }

  #connect(): void {
    const one = this.#services[this.random.below(2)];
    if (one && this.client.wire === undefined)
      this.client.dial((end) => this.#wire(one, new ClientDoor(one), end, false));
    const other = this.#services[this.random.below(2)];
    if (other && this.agent && this.agent.wire === undefined)
      this.agent.dial((end) => this.#wire(other, new AgentDoor(other), end, true));
  }

  #wire(service: Service, door: AgentDoor | ClientDoor, lower: End, ofAgent: boolean): Wire {
    const wire = new Wire(door, lower);
    door.wire = wire;
    this.#wires.push({ wire, service, ofAgent });
    return wire;
  }

  // ─── what clients do ─────────────────────────────────────────────────────────────────────────────────────

  submit(): boolean {
    const n = Math.min(1 + this.random.below(3), MOST_TASKS - this.#tasks);
    const specs = Array.from({ length: n }, () => {
      const nonce = `task ${++this.#tasks}`;
      return {
        key: nonce.padEnd(16) as IdKey,
        nonce,
        atMostOnce: !this.random.once(3),
        retries: this.random.once(3) ? 1 + this.random.below(2) : 0,
        queueTimeout: this.random.once(4),
      };
    });
    if (n > 0) this.client.submit(specs);
    return n > 0;
  }

  cancel(): boolean {
    const key = this.random.pick([...this.client.known]);
    if (key !== undefined) this.client.cancel(key);
    return key !== undefined;
  }

  // ─── what goes wrong ─────────────────────────────────────────────────────────────────────────────────────

  cutClient(): boolean {
    this.client.wire?.cut(this.random);
    return this.client.wire !== undefined;
  }

  cutAgent(): boolean {
    this.agent?.wire?.cut(this.random);
    // The agent may hear of it first, and dial again while the service still reads the old connection.
    return this.agent?.wire !== undefined;
  }

  killService(): boolean {
    const at = this.random.below(2);
    const service = this.#services[at];
    if (!service) return false;
    this.#services[at] = undefined;
    for (const one of this.#wires) if (one.service === service) one.wire.upperDied(this.random);
    return true;
  }

  startService(): boolean {
    const at = this.#services.indexOf(undefined);
    if (at < 0) return false;
    this.#services[at] = new Service({
      bugs: this.#bugs,
      hint: (from, hint) => this.hints.push({ to: this.#services[0] === from ? 1 : 0, hint }),
    });
    return true;
  }

  killAgent(): boolean {
    if (!this.agent) return false;
    for (const one of this.#wires) if (one.ofAgent) one.wire.lowerDied(this.random);
    this.#disk.agentDied(this.random);
    this.agent = undefined;
    return true;
  }

  killMachine(): boolean {
    this.killAgent();
    machineDies(this.#nodeDeps());
    for (const key of this.#disk.machineDied(this.random)) this.oracle.startForgotten(key);
    this.#machine.missing = 0;
    this.#boot++;
    return true;
  }

  startAgent(): boolean {
    if (this.agent) return false;
    this.agent = new Agent({
      ...this.#nodeDeps(),
      disk: this.#disk,
      bootId: `boot-${this.#boot}`,
      hasFunction: () => this.#hasFunction,
    });
    return true;
  }

  drainAgent(): boolean {
    if (!this.agent || this.agent.draining) return false;
    this.agent.drain();
    return true;
  }

  killWorker(): boolean {
    return this.agent ? this.agent.node.workerDies() : orphanDies(this.#nodeDeps());
  }

  loseReply(): boolean {
    const service = this.random.pick(this.#services);
    return service?.statements.run(this.#store, this.random, true) ?? false;
  }

  toggleDisk(): boolean {
    this.#disk.full = !this.#disk.full;
    return true;
  }

  syncJournal(): boolean {
    // Only an agent deletes what its synced segment supersedes.
    if (this.agent) this.#disk.sync();
    return this.agent !== undefined;
  }

  compactJournal(): boolean {
    this.agent?.turn(true);
    if (this.#disk.full) return false;
    this.agent?.compact();
    return true;
  }

  functionComes(): boolean {
    if (this.#hasFunction) return false;
    this.#hasFunction = true;
    this.agent?.functionCame();
    return true;
  }

  sweep(): boolean {
    for (const service of this.#services) service?.sweep(this.client.known);
    return true;
  }

  // ─── rest ────────────────────────────────────────────────────────────────────────────────────────────────

  /** The faults end; everything moves until nothing is open any more. */
  #rest(): void {
    while (this.startService());
    this.#disk.full = false;
    this.functionComes();
    // A drained agent is started anew, as its operator would.
    if (this.agent?.draining) this.killAgent();
    this.startAgent();
    for (let round = 0; round < MOST_ROUNDS; round++) {
      if (this.#store.allEnded && this.client.isContent && this.client.wire) return;
      for (let hint = this.hints.shift(); hint; hint = this.hints.shift())
        this.#services[hint.to]?.hinted(hint.hint);
      this.#everythingOnce();
      if (round % 10 === 9) this.sweep();
    }
  }

  #everythingOnce(): void {
    for (const one of [...this.#wires]) {
      while (one.wire.deliver(true));
      while (one.wire.deliver(false));
    }
    this.#wires = this.#wires.filter((one) => !one.wire.isOver);
    this.#connect();
    for (const service of this.#services) {
      if (!service) continue;
      while (service.statements.run(this.#store, this.random, false));
      while (service.statements.reply(this.random));
      service.pump();
    }
    while (this.agent?.hearNode());
    this.agent?.turn(true);
    while (this.agent?.node.feed());
    while (this.agent?.node.stopCancelled());
    this.#work(false);
    this.#work(false);
  }
}
