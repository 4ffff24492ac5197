import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, it } from "vitest";
import { outputOf } from "./output.js";
import { TasksApi } from "./resources.js";
import { Rest } from "./rest.js";

interface Answer {
  readonly attempt: number;
  readonly offset: number;
  readonly data: Buffer | string;
  readonly more: boolean;
  readonly last?: number;
}

let server: Server;
let rest: Rest;
afterEach(async () => {
  rest.close();
  await new Promise((resolve) => server.close(resolve));
});

/** A service that gives these answers, one after the other; what it was asked for. */
async function serving(answers: readonly Answer[]): Promise<{ tasks: TasksApi; asked: string[] }> {
  const asked: string[] = [];
  server = createServer((request, response) => {
    const { attempt, offset, data, more, last = attempt } = answers[asked.length]!;
    asked.push(request.url!.split("?")[1]!);
    const bytes = Buffer.from(data as string);
    response
      .writeHead(200, {
        "farloom-attempt": attempt,
        "farloom-offset": offset,
        "farloom-next-offset": offset + bytes.length,
        "farloom-more": String(more),
        "farloom-last-attempt": last,
      })
      .end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  rest = new Rest({ url, apiKey: "k", software: "test", attempts: 1 });
  return { tasks: new TasksApi(rest), asked };
}

async function all(chunks: AsyncIterable<{ attempt: number; skipped: number; text: string }>) {
  const found: [number, number, string][] = [];
  for await (const { attempt, skipped, text } of chunks) found.push([attempt, skipped, text]);
  return found;
}

it("goes on where it was, over a gap, a character in two pieces, and a next attempt, to the end", async () => {
  const u = Buffer.from("ü");
  const { tasks, asked } = await serving([
    { attempt: 1, offset: 0, data: Buffer.concat([Buffer.from("a"), u.subarray(0, 1)]), more: true },
    { attempt: 1, offset: 2, data: u.subarray(1), more: true },
    // Nothing in the time of one request.
    { attempt: 1, offset: 3, data: "", more: true },
    { attempt: 1, offset: 100, data: "behind", more: false, last: 2 },
    { attempt: 2, offset: 0, data: "again", more: true, last: 2 },
    { attempt: 2, offset: 5, data: "", more: false, last: 2 },
  ]);
  expect(await all(outputOf(tasks, "t", { stream: "stderr" }))).toEqual([
    [1, 0, "a"],
    [1, 0, "ü"],
    [1, 97, "behind"],
    [2, 0, "again"],
  ]);
  expect(asked).toEqual([
    "stream=stderr&offset=0&wait=30",
    "stream=stderr&offset=2&attempt=1&wait=30",
    "stream=stderr&offset=3&attempt=1&wait=30",
    "stream=stderr&offset=3&attempt=1&wait=30",
    "stream=stderr&offset=0&attempt=2&wait=30",
    "stream=stderr&offset=5&attempt=2&wait=30",
  ]);
});

it("without following it gives what there is now, and ends", async () => {
  const { tasks, asked } = await serving([
    { attempt: 1, offset: 7, data: "now", more: true },
    { attempt: 1, offset: 10, data: "", more: true },
  ]);
  expect(await all(outputOf(tasks, "t", { offset: 7, follow: false }))).toEqual([[1, 0, "now"]]);
  expect(asked[0]).toBe("stream=stdout&offset=7&wait=0");
});
