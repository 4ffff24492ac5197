/** What is known of why a task waits, put together for the sentence that packages/protocol makes of it (why/why.ts). */
import { type EndpointReport, type IdKey, readReport, uuidToKey, type WaitFacts } from "@farloom/protocol";
import type { TaskDispatch } from "./ports.js";
import type { TaskRow } from "./reader.js";

/** A report, and when it came: milliseconds since 1970, by this service's clock. */
export interface Reported {
  readonly report: EndpointReport;
  readonly atMs: number;
}

/** The facts of an open task that does not run; `connected` as far as this replica can tell. */
export function waitFacts(
  dispatch: TaskDispatch,
  row: TaskRow,
  known: { readonly leased: boolean; readonly connected: boolean },
): WaitFacts {
  const endpointKey: IdKey = uuidToKey(row.endpoint_id)!;
  const reported = dispatch.reportOf(endpointKey) ?? reportedIn(row);
  const { endpoint_connected_at: on, endpoint_disconnected_at: off } = row;
  return {
    nowMs: Date.now(),
    attempt: row.attempt,
    notBeforeMs: row.not_before?.getTime(),
    endpoint: { connected: known.connected, wasConnected: on !== null, awaySinceMs: off?.getTime() },
    leased: known.leased,
    // Counted for one who asks for one task alone: of a long list it would cost its square.
    before: row.needs === undefined ? undefined : dispatch.waitingBefore(endpointKey, uuidToKey(row.id)!),
    needs: row.needs ?? undefined,
    report: reported?.report,
    reportedAtMs: reported?.atMs,
  };
}

/** What the endpoint's owner, another replica, wrote. */
function reportedIn({ endpoint_report: report, endpoint_reported_at: at }: TaskRow): Reported | undefined {
  return report && at ? { report: readReport(report), atMs: at.getTime() } : undefined;
}
