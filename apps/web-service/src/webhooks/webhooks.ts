/**
 * Webhooks: people are told over HTTP of what has ended. The map of this folder.
 *
 *     settings.ts    what the operator allows          target.ts     which URLs and addresses may be called
 *     rows.ts        people's webhooks                 post.ts       one POST to a pinned address
 *     recorder.ts    outcomes become deliveries        signature.ts  secrets and signatures
 *     group-ends.ts  when a group is done              sender.ts     claims, tries, tries again
 *     events.ts      what is told                      outbox.ts     the statements between recorder and sender
 *
 * Nothing here is on a task's road, and where webhooks are off nothing of it exists but the routes, which say so.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { FarloomError, type IdKey } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import { v7 as uuidv7 } from "uuid";
import type { AccessEpoch } from "../store/access-epoch.js";
import type { Clock } from "../store/database-clock.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { pingDelivery } from "./events.js";
import { cleanDeliveries } from "./outbox.js";
import { Recorder } from "./recorder.js";
import { type DeliveryRow, type WebhookFields, type WebhookRow, WebhookRows } from "./rows.js";
import { Sender } from "./sender.js";
import type { WebhookSettings } from "./settings.js";
import { type Derive, shownSecret } from "./signature.js";
import { checkUrl } from "./target.js";

/** Tests of one person in a minute. */
const MAX_TESTS = 10;
const CLEAN_EVERY_MS = 3_600_000;

export interface WebhooksDeps {
  readonly pool: Pool;
  readonly tenants: TenantPool;
  readonly log: Logger;
  readonly clock: Clock;
  readonly epoch: AccessEpoch;
  readonly replicaId: string;
  readonly derive: Derive;
  readonly settings: WebhookSettings;
  readonly publicUrl: string | undefined;
  /** Webhooks of one person. */
  readonly limit: number;
  readonly beatMs: number;
}

export class Webhooks {
  readonly #deps: WebhooksDeps;
  readonly rows: WebhookRows;
  readonly #sender: Sender;
  readonly #recorder: Recorder;
  readonly #stop = new AbortController();
  readonly #beating: Promise<void>;
  #cleanAtMs = 0;

  private constructor(deps: WebhooksDeps, sender: Sender, recorder: Recorder) {
    this.#deps = deps;
    this.rows = new WebhookRows(deps.pool, deps.tenants, deps.limit);
    this.#sender = sender;
    this.#recorder = recorder;
    this.#beating = this.#beat();
  }

  static async start(deps: WebhooksDeps): Promise<Webhooks> {
    const { pool, epoch, settings, derive, clock, replicaId, beatMs } = deps;
    const log = deps.log.child({ part: "webhooks" });
    const sender = new Sender({ pool, log, settings, derive, onDisabled: () => epoch.changed() });
    const base = deps.publicUrl ?? "";
    const onAdded = (): void => sender.wake();
    const recorder = await Recorder.start({ pool, log, clock, epoch, replicaId, base, beatMs, onAdded });
    return new Webhooks({ ...deps, log }, sender, recorder);
  }

  /** These outcomes were committed here. */
  ended(items: readonly { readonly key: IdKey; readonly groupKey: IdKey }[]): void {
    this.#recorder.ended(items);
  }

  /** @throws FarloomError WEBHOOK_URL_REFUSED, QUOTA_EXCEEDED */
  async create(ownerId: string, fields: WebhookFields): Promise<{ row: WebhookRow; secret: string }> {
    const row = await this.rows.create(ownerId, { ...fields, url: this.#checked(fields.url) });
    this.#deps.epoch.changed();
    return { row, secret: shownSecret(this.#deps.derive, row.id, row.secretNonce) };
  }

  /** @throws FarloomError WEBHOOK_NOT_FOUND, WEBHOOK_URL_REFUSED */
  async change(ownerId: string, id: string, fields: Partial<WebhookFields>): Promise<WebhookRow> {
    const before = await this.rows.get(ownerId, id);
    const url = fields.url === undefined ? before.url : this.#checked(fields.url);
    const row = await this.rows.change(ownerId, id, { ...before, ...fields, url });
    this.#deps.epoch.changed();
    this.#sender.wake();
    return row;
  }

  /** @throws FarloomError WEBHOOK_NOT_FOUND */
  async rotate(ownerId: string, id: string): Promise<{ row: WebhookRow; secret: string }> {
    const row = await this.rows.rotate(ownerId, id);
    return { row, secret: shownSecret(this.#deps.derive, row.id, row.secretNonce) };
  }

  /** @throws FarloomError WEBHOOK_NOT_FOUND */
  async remove(ownerId: string, id: string): Promise<void> {
    await this.rows.remove(ownerId, id);
    this.#deps.epoch.changed();
  }

  /** Sends a ping, once, and tells what came of it. @throws FarloomError WEBHOOK_NOT_FOUND, RATE_LIMITED */
  async test(ownerId: string, id: string): Promise<DeliveryRow> {
    await this.rows.get(ownerId, id);
    if ((await this.rows.recentTests(ownerId)) >= MAX_TESTS)
      throw new FarloomError("RATE_LIMITED", { seconds: 60 }, { retryAfterMs: 60_000 });
    const deliveryId = uuidv7();
    await this.#sender.test(pingDelivery({ id, ownerId }, deliveryId, new Date(this.#deps.clock.nowMs())));
    const [row] = await this.rows.deliveries(ownerId, id, { limit: 1, id: deliveryId });
    if (row === undefined) throw new FarloomError("WEBHOOK_NOT_FOUND", { id });
    return row;
  }

  /** Bounded by the time of one statement; what is under way comes again after the next start. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#beating;
    await this.#recorder.close();
    await this.#sender.close();
  }

  #checked(text: string): string {
    const checked = checkUrl(text, this.#deps.settings);
    if ("wrong" in checked) throw new FarloomError("WEBHOOK_URL_REFUSED", { detail: checked.wrong });
    return checked.url.href;
  }

  /** What no event tells of: a replica that died, a timer that was lost with it, what is old. */
  async #beat(): Promise<void> {
    const { pool, log, beatMs } = this.#deps;
    while (!this.#stop.signal.aborted) {
      try {
        await this.#recorder.beat();
        this.#sender.wake();
        if (performance.now() >= this.#cleanAtMs) {
          await cleanDeliveries(pool);
          this.#cleanAtMs = performance.now() + CLEAN_EVERY_MS;
        }
      } catch (err) {
        log.warn({ err }, "the sweep of webhooks failed; the next one does its work");
      }
      // Jittered, so that replicas do not sweep in step.
      const waitMs = beatMs * (0.8 + 0.4 * Math.random());
      await sleep(waitMs, undefined, { signal: this.#stop.signal, ref: false }).catch(() => {});
    }
  }
}
