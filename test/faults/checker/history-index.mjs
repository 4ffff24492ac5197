/** What is known of each task, gathered from histories and evidence: the checker's only material. */

/** @typedef {import("../record.mjs").Trace} Trace */

/**
 * @typedef {object} TaskFacts
 * @property {string} task
 * @property {string | undefined} nonce
 * @property {Record<string, any> | undefined} submit what the client said before it sent it
 * @property {any[]} acked
 * @property {any[]} told
 * @property {any[]} open
 * @property {any[]} missing
 * @property {any[]} leaks
 * @property {Trace[]} traces by time
 * @property {boolean} damaged its agent's journal was damaged while the task may have been there
 */

export class Index {
  /** @type {Map<string, TaskFacts>} */
  tasks = new Map();
  /** nonce → what its client said before it sent it */
  submits = new Map();
  /** nonce → task ids under which it was acknowledged */
  tasksOfNonce = new Map();
  /** nonce → traces */
  tracesOf = new Map();
  /** nonce → refusals */
  refused = new Map();
  settings = {};
  /** @type {any[]} */
  run;
  wasAudited = false;

  /** @param {{histories: any[], evidence: Trace[], run?: any[]}} input */
  constructor({ histories, evidence, run = [] }) {
    this.run = run;
    this.settings = run.find(({ ev }) => ev === "settings") ?? {};
    for (const record of histories.toSorted((a, b) => a.at - b.at)) this.#take(record);
    for (const trace of evidence) add(this.tracesOf, trace.nonce, trace);
    for (const [nonce, ids] of this.tasksOfNonce) {
      for (const id of ids) {
        const facts = this.#facts(id);
        facts.nonce = nonce;
        facts.submit = this.submits.get(nonce);
        facts.traces = this.tracesOf.get(nonce) ?? [];
      }
    }
    const damages = run.filter(({ ev }) => ev === "damage");
    for (const facts of this.tasks.values())
      facts.damaged = damages.some((damage) => mayHaveBeenThere(facts, damage));
  }

  #facts(task) {
    let facts = this.tasks.get(task);
    if (facts === undefined) {
      facts = {
        task,
        nonce: undefined,
        submit: undefined,
        acked: [],
        told: [],
        open: [],
        missing: [],
        leaks: [],
        traces: [],
        damaged: false,
      };
      this.tasks.set(task, facts);
    }
    return facts;
  }

  #take(record) {
    const { ev, task, nonce, client } = record;
    if (ev === "submit") {
      this.submits.set(nonce, record);
      if (task !== undefined) this.#bind(nonce, task);
    } else if (ev === "refused") {
      add(this.refused, nonce, record);
    } else if (ev === "acked") {
      this.#facts(task).acked.push(record);
      this.#bind(nonce, task);
    } else if (ev === "told") {
      this.#facts(task).told.push(record);
      if (nonce !== undefined) this.#bind(nonce, task);
    } else if (ev === "open") this.#facts(task).open.push(record);
    else if (ev === "missing") this.#facts(task).missing.push(record);
    else if (ev === "leak") this.#facts(task).leaks.push(record);
    if (client?.startsWith("audit") && (ev === "told" || ev === "open" || ev === "missing"))
      this.wasAudited = true;
  }

  #bind(nonce, task) {
    if (!this.tasksOfNonce.has(nonce)) this.tasksOfNonce.set(nonce, new Set());
    this.tasksOfNonce.get(nonce).add(task);
    this.#facts(task);
  }
}

function add(map, key, value) {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}

/** Sent to that endpoint before the damage was over, and not known to have ended before the agent was down. */
function mayHaveBeenThere({ submit, told }, { endpoint, from, to }) {
  if (submit === undefined || submit.endpoint !== endpoint || submit.at > to) return false;
  return told.length === 0 || told[0].at > from;
}
