/** Which of the ways to survive is the best here. Pure: what there is goes in, a choice with its reasons comes out. */

export const METHODS = ["systemd", "cron", "tmux", "none"] as const;
export type Method = (typeof METHODS)[number];

/** What was found on this machine. */
export interface SurviveFacts {
  /** The user's own systemd answers. */
  readonly systemd: boolean;
  /** It goes on after a logout; undefined where nobody can tell. */
  readonly linger: boolean | undefined;
  /** `denied`: the site lets this user have no crontab; `idle`: no cron daemon was seen. */
  readonly cron: "there" | "missing" | "denied" | "idle";
  readonly tmux: boolean;
}

export interface Choice {
  readonly method: Method;
  /** Why this one, and what it is not good for. */
  readonly why: string;
  /** What would make it better, where something would. */
  readonly advice?: string;
  /** The better ones, and why they are not it. */
  readonly passedOver: readonly { readonly method: Method; readonly why: string }[];
}

const LINGER_ADVICE = "ask the admin to run: loginctl enable-linger $USER";

/**
 * The best first: systemd with linger, cron, systemd without linger, tmux. A unit without linger ends at the last logout, which
 * a line of cron does not mind; a tmux session outlives a logout, and no reboot.
 */
export function chooseMethod(facts: SurviveFacts): Choice {
  const passedOver: { method: Method; why: string }[] = [];
  if (facts.systemd && facts.linger === true) return { ...describe("systemd", facts), passedOver };
  passedOver.push({
    method: "systemd",
    why: facts.systemd ? "without linger it ends when you log out" : "no systemd of yours answers here",
  });
  if (facts.cron === "there") return { ...describe("cron", facts), passedOver };
  passedOver.push({ method: "cron", why: CRON_WHY[facts.cron] });
  if (facts.systemd) return { ...describe("systemd", facts), passedOver: passedOver.slice(1) };
  if (facts.tmux) return { ...describe("tmux", facts), passedOver };
  passedOver.push({ method: "tmux", why: "tmux is not installed" });
  return { ...describe("none", facts), passedOver };
}

const CRON_WHY = {
  missing: "there is no crontab program",
  denied: "you may have no crontab here",
  idle: "no cron daemon runs here",
} as const;

/** The method somebody asked for, with what it is not good for here; or why it cannot be. */
export function forcedMethod(method: Method, facts: SurviveFacts): Choice | { readonly refused: string } {
  if (method === "systemd" && !facts.systemd)
    return { refused: "no systemd of yours answers on this machine" };
  if (method === "cron" && (facts.cron === "missing" || facts.cron === "denied"))
    return { refused: CRON_WHY[facts.cron] };
  if (method === "tmux" && !facts.tmux) return { refused: "tmux is not installed" };
  return { ...describe(method, facts), passedOver: [] };
}

function describe(method: Method, facts: SurviveFacts): Omit<Choice, "passedOver"> {
  switch (method) {
    case "systemd":
      if (facts.linger === true)
        return { method, why: "a systemd user unit with linger: it survives logouts, crashes and reboots" };
      return {
        method,
        why: "a systemd user unit without linger: it survives crashes, ends when you log out, and is back when you log in",
        advice: LINGER_ADVICE,
      };
    case "cron":
      return {
        method,
        why: "cron, @reboot and a look every five minutes: it survives logouts, crashes and reboots of this host",
        ...(facts.cron === "idle"
          ? { advice: "no cron daemon was seen: ask the admin whether cron runs here" }
          : {}),
      };
    case "tmux":
      return {
        method,
        why: "a tmux session: it survives logouts and crashes, and no reboot",
        advice: `after a reboot: farloom endpoint start; or ${LINGER_ADVICE}`,
      };
    case "none":
      return {
        method,
        why: "nothing brings it back: it runs until it is stopped, crashes or the machine reboots",
        advice: "start it again with: farloom endpoint start",
      };
  }
}
