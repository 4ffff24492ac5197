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
      onAsk: (...asked) => heard.push(["ask", ...asked]),
      onAnswer: (...told) => heard.push(["answer", ...told]),
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

  it("carry questions and answers to whom they are for, and to nobody else", () => {
    const { sender, sent, heard, listen } = pair();
    const [endpoint, task] = [ids.next(), ids.next()];
    expect(sender.ask("b", 1, endpoint, { task, attempt: 2 }), "nobody would hear").toBe(false);
    sender.alone = false;
    const digest = Buffer.alloc(32, 7);
    expect(sender.ask("b", 2, endpoint, { task, attempt: 3 })).toBe(true);
    sender.ask("b", 3, endpoint, { digest });
    sender.ask("c", 4, endpoint, { digest });
    sender.answer("b", 5, task);
    sender.answer("b", 6, "none");
    sender.answer("b", 7, undefined);
    sender.answer("c", 8, task);
    for (const text of sent) listen(text);
    expect(heard).toEqual([
      ["ask", "a", 2, endpoint, { task, attempt: 3 }],
      ["ask", "a", 3, endpoint, { digest }],
      ["answer", 5, task],
      ["answer", 6, "none"],
      ["answer", 7, undefined],
    ]);
  });

  it("are ignored when they are one's own or malformed", () => {
    const { heard, listen } = pair();
    listen("not json");
    listen(JSON.stringify({ from: "b", kind: "tasks", endpoint: keyToUuid(ids.next()), firstSeq: 1 }));
    listen(JSON.stringify({ from: "a", kind: "tasks", endpoint: "nowhere", firstSeq: 1 }));
    listen(JSON.stringify({ from: "a", kind: "teleport" }));
    for (const asked of [{}, { task: "x" }, { digest: "00" }])
      listen(
        JSON.stringify({ from: "a", to: "b", kind: "ask", n: 1, endpoint: keyToUuid(ids.next()), ...asked }),
      );
    expect(heard).toEqual([]);
  });
});
