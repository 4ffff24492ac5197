/** What is on the road just now, for Prometheus: read when asked, so that counting costs the tasks nothing. */
import { Gauge, type Registry } from "prom-client";

export interface RoadView {
  readonly dispatch: {
    queues(): Iterable<{ readonly length: number; readonly leased: number; readonly backlog: boolean }>;
  };
  readonly intake: { readonly waitingRows: number };
  readonly collect: { readonly waitingRows: number };
}

export function observeRoad(registry: Registry, road: RoadView): void {
  const gauge = (name: string, help: string, read: () => number): void => {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
  };
  const sum = (of: (queue: { length: number; leased: number; backlog: boolean }) => number): number => {
    let total = 0;
    for (const queue of road.dispatch.queues()) total += of(queue);
    return total;
  };
  gauge("farloom_endpoints_connected", "Endpoints whose agent is connected to this replica.", () =>
    sum(() => 1),
  );
  gauge("farloom_tasks_queued", "Tasks in the memory of this replica's queues, waiting to be sent.", () =>
    sum((q) => q.length),
  );
  gauge("farloom_tasks_leased", "Tasks that agents connected here have.", () => sum((q) => q.leased));
  gauge("farloom_endpoints_backlogged", "Queues with more open tasks in PostgreSQL than in memory.", () =>
    sum((q) => (q.backlog ? 1 : 0)),
  );
  gauge("farloom_submit_rows_waiting", "Tasks waiting for their INSERT.", () => road.intake.waitingRows);
  gauge("farloom_finish_rows_waiting", "Outcomes waiting for their INSERT.", () => road.collect.waitingRows);
}
