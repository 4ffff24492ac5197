/** What brings an agent back: the texts, read by the programs that they are for, and the choice among the ways. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { chooseMethod, forcedMethod, type SurviveFacts } from "./choose.js";
import {
  launcherText,
  shellQuote,
  surviveId,
  tmuxArguments,
  unitName,
  unitText,
  withCronLines,
  withoutCronLines,
} from "./texts.js";

/** Everything that a shell, systemd or cron could take for something else. */
const HARD = '/home/an n/it\'s 100% $HOME `x` \\n "q"';
const folder = mkdtempSync(join(tmpdir(), "farloom-survive-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const sh = (...args: string[]): string => execFileSync("/bin/sh", args, { encoding: "utf8" });

describe("the launcher", () => {
  const script = (program: readonly string[], env = {}): string => {
    const path = join(folder, "launch.sh");
    writeFileSync(path, launcherText({ stateDir: folder, program, env }));
    return path;
  };

  it("hands the agent its environment and its folder, whatever characters they have", () => {
    const path = script(
      ["/bin/sh", "-c", 'printf "%s|" "$PATH" "$HTTPS_PROXY" "$FARLOOM_AGENT_WORKERS" "$@"', "agent"],
      {
        PATH: `/usr/bin:/bin:${HARD}`,
        HTTPS_PROXY: "http://u:p%20w@proxy:3128",
        FARLOOM_AGENT_WORKERS: "3",
        FARLOOM_AGENT_STATE_DIR: "/elsewhere",
        FARLOOM_ENROLMENT_CODE: "no",
      },
    );
    expect(readFileSync(path, "utf8")).not.toMatch(/ENROLMENT|elsewhere/);
    expect(sh(path, "start", "--watch")).toBe(
      `/usr/bin:/bin:${HARD}|http://u:p%20w@proxy:3128|3|start|--watch|--state-dir|${folder}|`,
    );
  });

  it("keeps an agent going until it ends as it should, or says that another start is of no use", () => {
    for (const code of [0, 2, 4, 5]) {
      const path = script(["/bin/sh", "-c", `echo "$@"; exit ${code}`, "agent"], { PATH: process.env.PATH });
      expect(spawnSync("/bin/sh", [path, "keep"]).status).toBe(code);
    }
    expect(sh("-c", `cat ${shellQuote(join(folder, "agent.log"))}`)).toContain(`run --state-dir ${folder}`);
  });

  it("leaves no core files, whatever the limit where it is started", () => {
    const path = script(["/bin/sh", "-c", "ulimit -S -c", "agent"], { PATH: process.env.PATH });
    expect(sh("-c", `ulimit -S -c "$(ulimit -H -c)"; exec /bin/sh ${shellQuote(path)} status`)).toBe("0\n");
  });

  it("quotes one word for a shell, whatever it is", () => {
    expect(sh("-c", `printf %s ${shellQuote(HARD)}`)).toBe(HARD);
  });
});

describe("the systemd unit", () => {
  it("escapes what systemd would read: specifiers, quotes, backslashes, variables", () => {
    const text = unitText({ stateDir: "/s/100%", launcher: HARD, name: "lab\nExecStart=/x" });
    expect(text).toContain("ConditionPathExists=!/s/100%%/stopped\n");
    expect(text).toContain('ExecStart=/bin/sh "/home/an n/it\'s 100%% $$HOME `x` \\\\n \\"q\\"" serve\n');
    expect(text.match(/^ExecStart=/gm)).toHaveLength(1);
  });

  const hasAnalyze = spawnSync("systemd-analyze", ["--version"]).status === 0;
  it.skipIf(!hasAnalyze)("is a unit that systemd itself takes (skipped: needs systemd-analyze)", () => {
    mkdirSync(join(folder, "a b"), { recursive: true });
    const path = join(folder, unitName(folder));
    writeFileSync(
      path,
      unitText({ stateDir: join(folder, "a b"), launcher: join(folder, "a b", "launch.sh"), name: "lab" }),
    );
    const runtime = { ...process.env, XDG_RUNTIME_DIR: folder };
    const done = spawnSync("systemd-analyze", ["--user", "verify", path], { encoding: "utf8", env: runtime });
    expect([done.status, done.stderr.replaceAll(/^.*(XDG_RUNTIME|SO_PASSCRED|bus).*\n/gm, "")]).toEqual([
      0,
      "",
    ]);
  });
});

describe("lines of a crontab", () => {
  const other = "MAILTO=me\n0 3 * * * backup --full\n";

  it("stand there once, however often they are put there, and leave no trace", () => {
    const once = withCronLines(other, "/s", "/s/launch.sh");
    expect(withCronLines(once, "/s", "/s/launch.sh")).toBe(once);
    expect(once.startsWith(other)).toBe(true);
    expect(once).toContain(
      `@reboot /bin/sh '/s/launch.sh' start --watch >/dev/null 2>&1 # farloom ${surviveId("/s")}\n`,
    );
    expect(withoutCronLines(once, "/s")).toBe(other);
    expect(withoutCronLines(withCronLines("", "/s", "/s/launch.sh"), "/s")).toBe("");
    expect(withoutCronLines(withCronLines("0 1 * * * x", "/s", "/l"), "/s")).toBe("0 1 * * * x\n");
  });

  it("of two folders do not touch each other", () => {
    const both = withCronLines(withCronLines("", "/a", "/a/l"), "/b", "/b/l");
    expect(withoutCronLines(both, "/a")).toBe(withCronLines("", "/b", "/b/l"));
  });

  it("keep a % from becoming a new line, which cron makes of it", () => {
    expect(withCronLines("", "/s", "/100%/launch.sh")).toContain("'/100\\%/launch.sh'");
  });
});

it("tmux gets one command line, quoted", () => {
  expect(tmuxArguments("/s", HARD).at(-1)).toBe(`exec /bin/sh ${shellQuote(HARD)} keep`);
});

describe("the way to survive", () => {
  const best: SurviveFacts = { systemd: true, linger: true, cron: "there", tmux: true };

  it.each([
    [{}, "systemd", /with linger/],
    [{ linger: false }, "cron", /@reboot/],
    [{ linger: undefined }, "cron", /@reboot/],
    [{ systemd: false }, "cron", /@reboot/],
    [{ linger: false, cron: "denied" }, "systemd", /without linger.*log out/],
    [{ systemd: false, cron: "idle" }, "tmux", /no reboot/],
    [{ systemd: false, cron: "missing", tmux: false }, "none", /nothing brings it back/],
  ] as const)("with %j is %s, and says why", (change, method, why) => {
    const choice = chooseMethod({ ...best, ...change });
    expect(choice.method).toBe(method);
    expect(choice.why).toMatch(why);
    expect(choice.passedOver.map((one) => one.method)).not.toContain(method);
  });

  it("tells what to ask the admin for, where that would make it better", () => {
    const without = chooseMethod({ ...best, linger: false, cron: "denied" });
    expect(without.advice).toContain("loginctl enable-linger");
    expect(without.passedOver).toEqual([{ method: "cron", why: "you may have no crontab here" }]);
  });

  it("that was asked for is taken, or refused with the reason", () => {
    expect(forcedMethod("tmux", best)).toMatchObject({ method: "tmux" });
    expect(forcedMethod("none", best)).toMatchObject({ method: "none" });
    expect(forcedMethod("cron", { ...best, cron: "idle" })).toMatchObject({
      method: "cron",
      advice: expect.stringMatching(/cron runs/),
    });
    expect(forcedMethod("cron", { ...best, cron: "denied" })).toEqual({
      refused: "you may have no crontab here",
    });
    expect(forcedMethod("systemd", { ...best, systemd: false })).toHaveProperty("refused");
  });
});
