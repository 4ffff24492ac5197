import { keyToUuid, TaskIdAllocator } from "@farloom/protocol";
import { describe, expect, it } from "vitest";
import { HintSender, IDS_IN_A_HINT, receiveHint } from "./hints.js";

const ids = new TaskIdAllocator();

function pair(): { sender: HintSender; sent: string[]; heard: unknown[]; listen: (text: string) => void } {
  const sent: string[] = [];
  const heard: unknown[] = [];
  const sender = new HintSender("a", (m) => sent.push(m));
  const listen = (text: string): void =>
    receiveHint(text, "b", {
      onTasks: (endpoint, firstSeq) => heard.push(["tasks", endpoint, firstSeq]),
      onRunnable: (endpoint, keys) => heard.push(["runnable", endpoint, keys]),
      onFinished: (keys) => heard.push(["finished", keys]),
      onCancel: () => undefined,
      onClaimed: () => undefined,
      onAccess: () => undefined,
      onFollow: () => undefined,
      onOutput: () => undefined,
    });
  return { sender, sent, heard, listen };
}

describe("hints", () => {
  it("say nothing while a replica is alone", () => {
    const { sender, sent } = pair();
    sender.tasks(ids.next(), 1);
    sender.finished([ids.next()]);
    expect(sent).toEqual([]);
  });

  it("arrive as they were meant, in messages that NOTIFY can carry", () => {
    const { sender, sent, heard, listen } = pair();
    sender.alone = false;
    const endpoint = ids.next();
    const keys = Array.from({ length: IDS_IN_A_HINT + 1 }, () => ids.next());
    sender.tasks(endpoint, 7);
    sender.runnable(endpoint, keys.slice(0, 2));
    sender.finished(keys);
    for (const text of sent) {
      expect(Buffer.byteLength(text)).toBeLessThan(8000);
      listen(text);
    }
    expect(heard).toEqual([
      ["tasks", endpoint, 7],
      ["runnable", endpoint, keys.slice(0, 2)],
      ["finished", keys.slice(0, IDS_IN_A_HINT)],
      ["finished", keys.slice(IDS_IN_A_HINT)],
    ]);
  });

  it("are ignored when they are one's own or malformed", () => {
    const { heard, listen } = pair();
    listen("not json");
    listen(JSON.stringify({ from: "b", kind: "tasks", endpoint: keyToUuid(ids.next()), firstSeq: 1 }));
    listen(JSON.stringify({ from: "a", kind: "tasks", endpoint: "nowhere", firstSeq: 1 }));
    listen(JSON.stringify({ from: "a", kind: "teleport" }));
    expect(heard).toEqual([]);
  });
});
