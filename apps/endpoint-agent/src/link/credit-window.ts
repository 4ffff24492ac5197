/**
 * How much the agent is ready to hold, told to the service as cumulative credit (P9). Tasks count from
 * acceptance until the service has their result for good.
 *
 *   W1  What is granted and not yet used, plus what is held, never exceeds the window.
 *   W2  A grant goes out when an eighth of the window has become free, so that frames are few; until then at
 *       least seven eighths of the window are held or granted, so no one waits for it.
 */
export interface CreditGrant {
  readonly tasks: number;
  readonly bytes: number;
}

export class CreditWindow {
  readonly #windowTasks: number;
  readonly #windowBytes: number;
  #receivedTasks = 0;
  #receivedBytes = 0;
  #grantedTasks = 0;
  #grantedBytes = 0;

  constructor(windowTasks: number, windowBytes: number) {
    this.#windowTasks = windowTasks;
    this.#windowBytes = windowBytes;
  }

  /** A new session: positions count from zero (P8); what is held stays held. */
  restart(): void {
    this.#receivedTasks = this.#receivedBytes = this.#grantedTasks = this.#grantedBytes = 0;
  }

  /** Items came in this session, taken or not. False: more than was granted. */
  received(tasks: number, bytes: number, largestBytes: number): boolean {
    this.#receivedTasks += tasks;
    this.#receivedBytes += bytes;
    return (
      this.#receivedTasks <= this.#grantedTasks &&
      // P9: one task may overdraw the bytes.
      this.#receivedBytes - largestBytes <= this.#grantedBytes
    );
  }

  /** The grant to send now, given what is held, or undefined where it would not be worth a frame (W2). */
  next(heldTasks: number, heldBytes: number): CreditGrant | undefined {
    const tasks = Math.max(this.#grantedTasks, this.#receivedTasks + this.#windowTasks - heldTasks); // W1
    const bytes = Math.max(this.#grantedBytes, this.#receivedBytes + this.#windowBytes - heldBytes);
    const moved =
      tasks - this.#grantedTasks >= Math.max(1, this.#windowTasks >>> 3) ||
      bytes - this.#grantedBytes >= Math.max(1, this.#windowBytes >>> 3);
    if (!moved) return undefined;
    this.#grantedTasks = tasks;
    this.#grantedBytes = bytes;
    return { tasks, bytes };
  }
}
