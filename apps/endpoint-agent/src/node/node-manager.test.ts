import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CODEC_REFERENCE, decodeReference, encodeReference } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Call, command, NodeHarness, PYTHON, python } from "../../../../test/support/node-harness.js";

// Real processes on a busy machine.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 30_000 });

let node: NodeHarness;
let scratch: string;

beforeEach(async () => {
  scratch = mkdtempSync(join(tmpdir(), "fl-t-"));
  node = await new NodeHarness().start();
});

afterEach(async () => {
  const pids = node.pids;
  await node[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
  for (const pid of pids) expect(isAlive(pid), `worker ${pid} outlives its node manager`).toBe(false);
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.startsWith("Z") === false;
  } catch {
    return false;
  }
}

const ADD = python("def add(a, b=1):\n    return a + b\n");
const NAP = python("import time\ndef nap(s):\n    time.sleep(s)\n    return s\n");
const TOUCH = python(
  "def touch(path, what='x'):\n    with open(path, 'a') as f:\n        f.write(what)\n    return what\n",
);

describe("a call", () => {
  it("returns its value, with positional and named arguments", async () => {
    expect((await node.call(ADD, [2, 3])).value).toBe(5);
    expect((await node.call(ADD, [2], { kwargs: { b: 40 } })).value).toBe(42);
    expect((await node.call(ADD, [2], { codec: "msgpack" })).bytes).toEqual(Buffer.from([3]));
  });

  it("awaits a coroutine", async () => {
    const fn = python("import asyncio\nasync def main(x):\n    await asyncio.sleep(0)\n    return x\n", {
      entry: "main",
    });
    expect((await node.call(fn, ["ok"])).value).toBe("ok");
  });

  it("reports run time, CPU time of itself and its children, and peak memory", async () => {
    const busy = python(
      "import time, subprocess, sys\ndef busy():\n    t = time.process_time()\n    while time.process_time() - t < 0.2: pass\n    subprocess.run([sys.executable, '-S', '-c', 'import time\\nt=time.process_time()\\nwhile time.process_time()-t<0.2: pass'])\n    x = bytearray(80_000_000)\n    return len(x)\n",
    );
    const small = await node.call(ADD, [1]);
    const big = await node.call(busy);
    expect(big.state).toBe("SUCCEEDED");
    expect(big.cpuUs).toBeGreaterThan(380_000);
    expect(big.cpuUs).toBeLessThan(1_500_000);
    expect(big.runUs).toBeGreaterThan(big.cpuUs * 0.8);
    expect(big.peakKb).toBeGreaterThan(80_000);
    expect(small.peakKb).toBeLessThan(60_000);
    const after = await node.call(NAP, [0.01]);
    expect(after.peakKb, "the peak of one task is not charged to the next").toBeLessThan(60_000);
    expect(after.cpuUs).toBeLessThan(9_000);
  });

  it("gets its environment and working directory, which are put back afterwards", async () => {
    const look = python(
      "import os\ndef look():\n    os.environ['LEFT'] = 'behind'\n    return [os.environ.get('A'), os.environ.get('B'), os.getcwd()]\n",
      { env: { vars: { A: "of the function", B: "of the function" } } },
    );
    const left = python(
      "import os\ndef left():\n    return [os.environ.get('A'), os.environ.get('LEFT'), os.getcwd(), os.listdir('.')]\n",
    );
    const first = await node.call(look, [], { options: { env: { B: "of the call" }, cwd: scratch } });
    expect(first.value).toEqual(["of the function", "of the call", scratch]);
    const file = python(
      "import os\ndef file():\n    os.makedirs('d/e')\n    open('d/e/f', 'w').close()\n    os.symlink('/', 'root')\n",
    );
    expect((await node.call(file)).state).toBe("SUCCEEDED");
    const [a, l, cwd, files] = (await node.call(left)).value as unknown[];
    expect([a, l, files]).toEqual([null, null, []]);
    expect(cwd).not.toBe(scratch);
    expect(statSync("/usr").isDirectory()).toBe(true);
    const missing = await node.call(left, [], { options: { cwd: "/no/such/folder" } });
    expect([missing.state, missing.reason]).toEqual(["FAILED", "environment"]);
  });

  it("has its output captured, from print, C level and child processes alike", async () => {
    const fn = python(
      "import os, sys, subprocess\ndef main():\n    print('from print')\n    os.write(1, b'from write\\n')\n    sys.stdout.flush()\n    os.system('echo from system; echo err >&2')\n    subprocess.run(['echo', 'from child'])\n    print('problem', file=sys.stderr)\n",
      { entry: "main" },
    );
    const { detail } = await node.call(fn);
    for (const line of ["from print", "from write", "from system", "from child"])
      expect(detail.stdout).toContain(line);
    expect(detail.stderr).toBe("err\nproblem\n");
    expect(detail.stdoutBytes).toBe(detail.stdout!.length);
    expect(
      (await node.call(ADD, [1])).detail.stdout,
      "output belongs to the task that wrote it",
    ).toBeUndefined();
  });

  it("keeps only the tail of a flood, and no flood fills the disk", async () => {
    const flood = python(
      "import os, time\ndef flood(n):\n    block = b'x' * 65535 + b'\\n'\n    for i in range(n):\n        os.write(1, block)\n        time.sleep(0.002)\n    os.write(1, b'the end')\n",
    );
    let largest = 0;
    const file = join(node.stateDir, "run", "python-1", "stdout");
    const timer = setInterval(() => {
      largest = Math.max(largest, existsSync(file) ? statSync(file).size : 0);
    }, 20);
    const { detail, state } = await node.call(flood, [400]);
    clearInterval(timer);
    expect(state).toBe("SUCCEEDED");
    expect(detail.stdout!.endsWith("the end")).toBe(true);
    expect(Buffer.byteLength(detail.stdout!)).toBeLessThanOrEqual(65_536);
    // What is written in the instant of a cut goes with it.
    expect(detail.stdoutBytes).toBeGreaterThan(380 * 65_536);
    expect(detail.stdoutBytes).toBeLessThanOrEqual(400 * 65_536 + 7);
    expect(largest).toBeLessThan(16 * 1024 * 1024);
  });
});

describe("a failure", () => {
  it("carries type, message and a traceback with source lines", async () => {
    const fn = python(
      "def inner(x):\n    raise ValueError(f'bad {x}')\n\ndef main(x):\n    return inner(x)\n",
      { entry: "main" },
    );
    const { state, reason, detail } = await node.call(fn, [7]);
    expect([state, reason]).toEqual(["FAILED", "user_error"]);
    expect(detail.error).toMatchObject({ type: "ValueError", message: "bad 7" });
    expect(detail.error!.traceback).toContain("raise ValueError(f'bad {x}')");
    expect(detail.error!.traceback).not.toContain("farloom_worker.py");
    expect(detail.worker).toMatch(/^python-1 \(pid \d+\)$/);
  });

  const CASES: readonly [string, string, string, string, RegExp][] = [
    ["source that does not parse", "def main(:\n", "FAILED", "function_invalid", /does not parse/],
    ["an entry that is not there", "def other():\n    pass\n", "FAILED", "function_invalid", /it has: other/],
    [
      "a module that is missing",
      "import no_such_module_x\ndef main(): pass\n",
      "FAILED",
      "environment",
      /pip install no_such_module_x/,
    ],
    ["NaN in JSON", "def main(): return float('nan')\n", "FAILED", "result_invalid", /msgpack/],
    ["bytes in JSON", "def main(): return b'x'\n", "FAILED", "result_invalid", /base64/],
    ["an object in JSON", "def main(): return object()\n", "FAILED", "result_invalid", /pickle/],
    [
      "a result nested too deep",
      "def main():\n    x = []\n    for _ in range(100000): x = [x]\n    return x\n",
      "FAILED",
      "result_invalid",
      /too deep/,
    ],
    ["sys.exit", "import sys\ndef main(): sys.exit(3)\n", "FAILED", "user_error", /sys\.exit\(3\)/],
    ["endless recursion", "def main(): return main()\n", "FAILED", "user_error", /recursion/],
    ["arguments that do not fit", "def main(a, b): pass\n", "FAILED", "arguments_invalid", /missing/],
  ];
  it.each(CASES)("of %s is named", async (_what, code, state, reason, message) => {
    const pid = node.pids[0];
    const end = await node.call(python(code, { entry: "main" }));
    expect([end.state, end.reason]).toEqual([state, reason]);
    expect(end.detail.error!.message).toMatch(message);
    expect((await node.call(ADD, [1])).value, "the worker is as good as before").toBe(2);
    expect(node.pids[0]).toBe(pid);
  });

  it("of arguments that cannot be decoded is arguments_invalid", async () => {
    const deep = Buffer.from(`${"[".repeat(100_000)}${"]".repeat(100_000)}`.slice(0, 60_000));
    for (const [raw, rawCodec] of [
      [Buffer.from("{"), 1],
      [deep, 1],
      [Buffer.alloc(5000, 0x91), 2],
      [Buffer.from([0xc1]), 2],
      [Buffer.from("x"), 3],
      [Buffer.from("3"), 1],
    ] as const) {
      const end = await node.call(ADD, [], { raw, rawCodec });
      expect([end.state, end.reason]).toEqual(["FAILED", "arguments_invalid"]);
    }
  });

  it("of pickled code is told from the code's own failures, and pickled calls work", async () => {
    const dump = (source: string) =>
      Buffer.from(
        execFileSync(PYTHON, ["-c", `import cloudpickle, sys; ${source}`], { encoding: "latin1" }),
        "latin1",
      );
    const code = dump(
      "k = 10; sys.stdout.buffer.write(cloudpickle.dumps(lambda x, n=1: (x * n + k, {1, 2})))",
    );
    const raw = dump("sys.stdout.buffer.write(cloudpickle.dumps(((4,), {'n': 3})))");
    const end = await node.call(python("", { format: "pickle", code }), [], { raw, rawCodec: 3 });
    expect([end.state, end.codec]).toEqual(["SUCCEEDED", 3]);
    const back = execFileSync(PYTHON, ["-c", "import pickle, sys; print(pickle.load(sys.stdin.buffer))"], {
      input: end.bytes,
    });
    expect(back.toString().trim()).toBe("(22, {1, 2})");
    const broken = await node.call(python("", { format: "pickle", code: Buffer.from("no pickle") }));
    expect(broken.reason).toBe("function_invalid");
  });

  it("of a pickle from another Python says which versions", async () => {
    const fn = python("", { format: "pickle", code: Buffer.from("x"), env: { python: "2.7" } });
    const end = await node.call(fn);
    expect(end.reason).toBe("environment");
    expect(end.detail.error!.message).toMatch(/pickled by Python 2\.7/);
  });

  it("of a missing interpreter is runtime_missing", async () => {
    await using other = await new NodeHarness({
      runtimes: { python: { default: "/no/such/python" } },
    }).start();
    const end = await other.call(ADD, [1]);
    expect([end.state, end.reason]).toEqual(["FAILED", "runtime_missing"]);
    expect(end.detail.error!.message).toContain("/no/such/python");
    const named = await node.call(python("def f(): pass\n", { env: { interpreter: "py99" } }));
    expect(named.reason).toBe("runtime_missing");
  });

  it("of an interpreter that cannot start a worker carries its standard error", async () => {
    const broken = join(scratch, "python");
    writeFileSync(broken, "#!/bin/sh\necho this machine has no libpython >&2\nexit 3\n", { mode: 0o755 });
    await using other = await new NodeHarness({ runtimes: { python: { default: broken } } }).start();
    const end = await other.call(ADD, [1]);
    expect([end.state, end.reason]).toEqual(["FAILED", "environment"]);
    expect(end.detail.stderr).toContain("no libpython");
  });
});

describe("a worker's death", () => {
  it("is charged to the task that ran; what was queued behind it runs elsewhere, untouched", async () => {
    const die = python(
      "import os, sys\ndef die(log):\n    print('last words', flush=True)\n    os._exit(9)\n",
    );
    // Measured as short, so that many go ahead to the worker.
    for (let i = 0; i < 20; i++) await node.call(TOUCH, [join(scratch, "warm")]);
    const log = join(scratch, "log");
    const calls: Call[] = [];
    for (let i = 0; i < 20; i++) calls.push({ fn: TOUCH, args: [log, `${i},`] });
    calls.push({ fn: die, args: [log] });
    for (let i = 20; i < 60; i++) calls.push({ fn: TOUCH, args: [log, `${i},`] });
    const ends = await node.ends(node.send(...calls));
    expect(ends.filter((end) => end.state !== "SUCCEEDED")).toHaveLength(1);
    const dead = ends[20]!;
    expect([dead.state, dead.reason, dead.detail.exitCode]).toEqual(["FAILED", "worker_died", 9]);
    expect(dead.detail.stdout).toContain("last words");
    expect(dead.detail.worker).toMatch(/^python-\d+ \(pid \d+\)$/);
    const ran = readFileSync(log, "utf8").split(",").filter(Boolean).map(Number);
    expect(ran, "each ran exactly once, in order").toEqual(Array.from({ length: 60 }, (_, i) => i));
  });

  it("by a signal names the signal, and costs no finished result", async () => {
    for (let round = 0; round < 5; round++) {
      const keys = node.send(
        ...Array.from(
          { length: 200 },
          (_, i): Call => ({ fn: TOUCH, args: [join(scratch, `k${round}`), `${i},`] }),
        ),
      );
      await node.until(() => node.outcomes.has(keys[20 * round]!));
      process.kill(node.pids[0]!, "SIGKILL");
      const ends = await node.ends(keys);
      const failed = ends.filter((end) => end.state !== "SUCCEEDED");
      expect(failed.length).toBeLessThanOrEqual(1);
      for (const end of failed) expect([end.reason, end.detail.signal]).toEqual(["worker_died", "SIGKILL"]);
      const ran = readFileSync(join(scratch, `k${round}`), "utf8")
        .split(",")
        .filter(Boolean)
        .map(Number);
      expect(new Set(ran).size, "nothing ran twice").toBe(ran.length);
      expect(ran.length).toBeGreaterThanOrEqual(ends.length - failed.length);
    }
  });

  it("takes the processes that its tasks left behind with it", async () => {
    const path = join(scratch, "child");
    const stray = python(
      "import subprocess, time\ndef stray(path):\n    open(path, 'w').write('%d.' % subprocess.Popen(['sleep', '60']).pid)\n    time.sleep(60)\n",
    );
    node.send({ fn: stray, args: [path] });
    await expect
      .poll(() => existsSync(path) && readFileSync(path, "utf8"), { timeout: 20_000 })
      .toMatch(/\.$/);
    const pid = Number.parseInt(readFileSync(path, "utf8"), 10);
    expect(isAlive(pid)).toBe(true);
    process.kill(node.pids[0]!, "SIGKILL");
    await expect.poll(() => isAlive(pid), { timeout: 3000 }).toBe(false);
  });

  it("ends daemons that left its process group and session, whatever it died of", async () => {
    const path = join(scratch, "daemon");
    const stray = python(
      "import os, signal\ndef stray(path):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            signal.signal(signal.SIGTERM, signal.SIG_IGN)\n            open(path, 'w').write('%d.' % os.getpid())\n            import time; time.sleep(60)\n        os._exit(0)\n    import time\n    time.sleep(60)\n",
    );
    node.send({ fn: stray, args: [path] });
    await expect
      .poll(() => existsSync(path) && readFileSync(path, "utf8"), { timeout: 20_000 })
      .toMatch(/\.$/);
    const pid = Number.parseInt(readFileSync(path, "utf8"), 10);
    expect(isAlive(pid)).toBe(true);
    process.kill(node.pids[0]!, "SIGKILL");
    await expect.poll(() => isAlive(pid), { timeout: 5000 }).toBe(false);
  });

  it("is told with the last line of its standard error, and with how it ended", async () => {
    const crash = python(
      "import os, sys\ndef crash():\n    print('disk quota exceeded', file=sys.stderr, flush=True)\n    os.abort()\n",
    );
    const end = await node.call(crash);
    expect([end.state, end.reason, end.detail.signal]).toEqual(["FAILED", "worker_died", "SIGABRT"]);
    expect(end.detail.error!.message).toMatch(/was ended by SIGABRT .*standard error: disk quota exceeded/);
    const silent = await node.call(python("import os\ndef silent():\n    os._exit(0)\n"));
    expect(silent.detail.error!.message).toMatch(/ended with exit code 0 and without a report/);
  });

  it("follows garbage on its connection, and the task is charged", async () => {
    const garbage = python(
      "import os, stat\ndef garbage():\n    for fd in range(3, 40):\n        try:\n            if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, b'\\xff' * 64)\n        except OSError: pass\n    import time\n    time.sleep(30)\n",
    );
    const end = await node.call(garbage);
    expect([end.state, end.reason]).toEqual(["FAILED", "worker_died"]);
    expect(end.detail.error!.message).toMatch(/connection/);
    expect((await node.call(ADD, [1])).value).toBe(2);
  });

  it("does not come from garbage that is only printed", async () => {
    const noise = python(
      "import os\ndef noise():\n    os.write(1, bytes(range(256)) * 20)\n    os.write(2, b'\\xff\\xfe')\n    return 1\n",
    );
    const pid = node.pids[0];
    expect((await node.call(noise)).value).toBe(1);
    expect(node.pids[0]).toBe(pid);
  });

  it("does not come from a function that forks, on either way out of the child", async () => {
    const fork = python(
      "import os, sys\ndef fork(how):\n    pid = os.fork()\n    if pid == 0:\n        if how == 'raise': raise RuntimeError('in the child')\n        if how == 'exit': sys.exit(5)\n        return 'child'\n    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n",
    );
    const pid = node.pids[0];
    expect((await node.call(fork, ["return"])).value).toBe(0);
    expect((await node.call(fork, ["raise"])).value).toBe(1);
    expect((await node.call(fork, ["exit"])).value).toBe(5);
    const pool = python(
      "import multiprocessing\ndef pool(n):\n    with multiprocessing.get_context('fork').Pool(2) as p:\n        return p.map(abs, range(-n, 0))\n",
    );
    expect((await node.call(pool, [3])).value).toEqual([3, 2, 1]);
    expect(node.pids[0]).toBe(pid);
  });
});

describe("stopping", () => {
  it("a task that never returns is ended at its time limit, and only that one", async () => {
    const forever = python("def forever():\n    while True: pass\n");
    const [key, behind] = node.send({ fn: forever, options: { timeoutMs: 300 } }, { fn: ADD, args: [1] });
    const [end, next] = await node.ends([key!, behind!]);
    expect([end!.state, end!.reason]).toEqual(["TIMED_OUT", "run_time_limit"]);
    expect(end!.runUs).toBeGreaterThan(290_000);
    expect(end!.runUs).toBeLessThan(3_000_000);
    expect(next!.value).toBe(2);
  });

  it("insists where a function ignores SIGTERM, and takes its children along", async () => {
    const stubborn = python(
      "import signal, subprocess, time\ndef stubborn(path):\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    p = subprocess.Popen(['sleep', '60'])\n    open(path, 'w').write(str(p.pid))\n    while True: time.sleep(1)\n",
      { timeoutMs: 400 },
    );
    const end = await node.call(stubborn, [join(scratch, "pid")]);
    expect(end.state).toBe("TIMED_OUT");
    expect(end.detail.signal).toBe("SIGKILL");
    const child = Number(readFileSync(join(scratch, "pid"), "utf8"));
    await expect.poll(() => isAlive(child)).toBe(false);
  });

  const leaver = (how: string) =>
    python(
      `import os, signal, subprocess, sys, time\ndef leave(path):\n    ${how.replaceAll("\n", "\n    ")}\n    while True: time.sleep(1)\n`,
    );
  const DAEMON =
    "import os,signal,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1],'w').write(str(os.getpid())); time.sleep(60)";
  const WAYS: [string, string][] = [
    [
      "forks twice",
      `if os.fork() == 0:\n    if os.fork() == 0:\n        open(path, 'w').write(str(os.getpid()))\n        time.sleep(60)\n    os._exit(0)`,
    ],
    [
      "starts a daemon in a session of its own that ignores SIGTERM",
      `subprocess.Popen([sys.executable, '-S', '-c', ${JSON.stringify(DAEMON)}, path], start_new_session=True)`,
    ],
    [
      "forks twice and calls setsid",
      `if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        open(path, 'w').write(str(os.getpid()))\n        time.sleep(60)\n    os._exit(0)`,
    ],
    [
      "ignores SIGTERM itself",
      `signal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen(path, 'w').write(str(os.getpid()))`,
    ],
  ];
  it.each(WAYS)("a cancel is confirmed where a function %s, and is true", async (_what, how) => {
    const path = join(scratch, "pid");
    const [key] = node.send({ fn: leaver(how), args: [path] });
    await expect
      .poll(() => existsSync(path) && readFileSync(path, "utf8") !== "", { timeout: 10_000 })
      .toBe(true);
    const pid = Number(readFileSync(path, "utf8"));
    expect(isAlive(pid)).toBe(true);
    node.port.send({ t: "cancel", ids: Buffer.from(key!, "latin1") });
    const [end] = await node.ends([key!]);
    expect([end!.state, end!.reason, end!.detail.confirmed]).toEqual([
      "CANCELLED",
      "cancelled_by_user",
      true,
    ]);
    expect(isAlive(pid), "what was confirmed to be gone is gone").toBe(false);
  });

  it("a program that tidies up on SIGTERM is given its grace", async () => {
    const file = join(scratch, "tidy");
    const tidy = command({
      argv: [
        "sh",
        "-c",
        `trap 'sleep 0.25; echo tidy > ${file}; exit 0' TERM; echo up > ${file}; while :; do sleep 0.05; done`,
      ],
    });
    const [key] = node.send({ fn: tidy });
    await expect.poll(() => existsSync(file) && readFileSync(file, "utf8"), { timeout: 10_000 }).toBe("up\n");
    node.port.send({ t: "cancel", ids: Buffer.from(key!, "latin1") });
    const [end] = await node.ends([key!]);
    expect([end!.state, end!.detail.confirmed]).toEqual(["CANCELLED", true]);
    expect(readFileSync(file, "utf8")).toBe("tidy\n");
  });

  it("a task that reaches its deadline while it runs ends TIMED_OUT, and is stopped like a cancelled one", async () => {
    const [key, queued] = node.send({ fn: NAP, args: [30] }, { fn: NAP, args: [30] });
    await node.until(() => node.started.has(key!));
    node.port.send({ t: "cancel", ids: Buffer.from(`${key}${queued}`, "latin1"), why: "deadline" });
    const ends = await node.ends([key!, queued!]);
    for (const end of ends)
      expect([end.state, end.reason, end.detail.confirmed]).toEqual(["TIMED_OUT", "deadline", true]);
  });

  it("a queued task that is cancelled never starts; a running one is ended", async () => {
    const log = join(scratch, "log");
    const [running, ...queued] = node.send(
      { fn: NAP, args: [30] },
      { fn: TOUCH, args: [log, "a"] },
      { fn: TOUCH, args: [log, "b"] },
    );
    await node.until(() => node.started.has(running!));
    node.port.send({ t: "cancel", ids: Buffer.from(queued[0]!, "latin1") });
    const [first] = await node.ends([queued[0]!]);
    expect([first!.state, first!.reason]).toEqual(["CANCELLED", "cancelled_by_user"]);
    node.port.send({ t: "cancel", ids: Buffer.from(running!, "latin1") });
    const [ran, other] = await node.ends([running!, queued[1]!]);
    expect(ran!.state).toBe("CANCELLED");
    expect(other!.state).toBe("SUCCEEDED");
    expect(readFileSync(log, "utf8")).toBe("b");
  });

  it("what waits behind a task that turns out long is taken back and runs on another worker", async () => {
    await using two = await new NodeHarness({ workers: 2 }).start();
    const maybe = python("import time\ndef maybe(s):\n    if s: time.sleep(s)\n    return s\n");
    await two.ends(two.send(...Array.from({ length: 60 }, (): Call => ({ fn: maybe, args: [0] }))));
    const at = performance.now();
    const keys = two.send(
      { fn: maybe, args: [8] },
      ...Array.from({ length: 40 }, (): Call => ({ fn: maybe, args: [0] })),
    );
    await two.ends(keys.slice(1));
    expect(performance.now() - at).toBeLessThan(4_000);
    expect(two.outcomes.has(keys[0]!)).toBe(false);
    await two.until(() => two.started.has(keys[0]!));
    two.port.send({ t: "cancel", ids: Buffer.from(keys[0]!, "latin1") });
    expect((await two.ends([keys[0]!]))[0]!.state).toBe("CANCELLED");
  });

  it("draining gives back what waits, and finishes what runs", async () => {
    const keys = node.send({ fn: NAP, args: [2] }, { fn: NAP, args: [0.1] }, { fn: NAP, args: [0.1] });
    await node.until(() => node.started.has(keys[0]!));
    await node.manager.drain();
    expect(node.outcomes.get(keys[0]!)?.state).toBe("SUCCEEDED");
    expect(keys.slice(1).every((key) => node.returned.has(key))).toBe(true);
  });
});

describe("large payloads", () => {
  it("arrive by reference and leave by reference", async () => {
    const payload = Buffer.from(JSON.stringify([["y".repeat(1_000_000)], {}]));
    const digest = createHash("sha256").update(payload).digest();
    mkdirSync(join(node.stateDir, "payloads"), { recursive: true });
    writeFileSync(join(node.stateDir, "payloads", digest.toString("hex")), payload);
    const fn = python("def double(x):\n    return x + x\n");
    const call = () =>
      node.call(fn, [], { raw: encodeReference(digest, payload.length), rawCodec: 1 | CODEC_REFERENCE });
    const end = await call();
    expect(end.state).toBe("SUCCEEDED");
    expect(end.codec).toBe(1 | CODEC_REFERENCE);
    const reference = decodeReference(end.bytes)!;
    const bytes = readFileSync(join(node.stateDir, "payloads", reference.digest.toString("hex")));
    expect(bytes.length).toBe(reference.sizeBytes);
    expect(createHash("sha256").update(bytes).digest()).toEqual(reference.digest);
    expect(JSON.parse(bytes.toString())).toHaveLength(2_000_000);
    rmSync(join(node.stateDir, "payloads", digest.toString("hex")));
    expect((await call()).reason).toBe("payload_missing");
    expect(readdirSync(join(node.stateDir, "payloads")).some((name) => name.startsWith("tmp-"))).toBe(false);
  });

  it("a path that a caller slips into the options is not read", async () => {
    const end = await node.call(ADD, [1], { options: { argsFile: "/etc/passwd" } });
    expect(end.value).toBe(2);
  });
});

it("credit bounds what is in hand and keeps workers busy: many no-ops pass, each exactly once", async () => {
  const noop = python("def noop(): pass\n");
  const total = 5_000;
  const keys: string[] = [];
  while (keys.length < total) {
    await node.until(() => node.creditTasks > keys.length);
    const n = Math.min(total - keys.length, node.creditTasks - keys.length);
    keys.push(...node.send(...Array.from({ length: n }, (): Call => ({ fn: noop }))));
  }
  const ends = await node.ends(keys);
  expect(ends.every((end) => end.state === "SUCCEEDED")).toBe(true);
  expect(node.creditTasks).toBeLessThan(total + 2_000);
});
