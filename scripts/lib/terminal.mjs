/**
 * What the scripts show: one line for each step, with a tick or a cross and the seconds it took.
 *
 * On a terminal the line of a running step is redrawn in place; in a log file each step is one line, written
 * when it ends, so that nothing there needs a terminal to be read.
 */
const onTerminal = process.stdout.isTTY === true && process.env.TERM !== "dumb";
const colours = onTerminal && process.env.NO_COLOR === undefined;
const paint = (code) => (text) => (colours ? `\u001b[${code}m${text}\u001b[0m` : text);
export const bold = paint(1);
export const dim = paint(2);
const green = paint(32);
const red = paint(31);

const ERASE_LINE = "\r\u001b[2K";
/** Where the seconds stand: titles are shorter. */
const TITLE_COLUMNS = 60;
const REDRAW_MS = 200;

export function say(text = "") {
  process.stdout.write(`${text}\n`);
}

/** A step that ended badly for a reason the user can do something about: shown without a stack. */
export class StepFailed extends Error {
  constructor(message, { detail = "" } = {}) {
    super(message);
    this.name = "StepFailed";
    /** What a tool printed; shown below the message. */
    this.detail = detail;
  }
}

/**
 * Runs `work` as a step. `work` gets a function that changes the text of the running line, and may return a
 * better title for the finished one.
 */
export async function step(title, work) {
  const startedAt = performance.now();
  let shown = title;
  const seconds = () => `${((performance.now() - startedAt) / 1000).toFixed(1)} s`.padStart(8);
  const line = (mark, text) => `  ${mark} ${text.padEnd(TITLE_COLUMNS)}${dim(seconds())}`;
  const redraw = () => process.stdout.write(ERASE_LINE + line("…", shown));
  const timer = onTerminal ? setInterval(redraw, REDRAW_MS) : undefined;
  if (onTerminal) redraw();
  const finish = (mark, text) => {
    clearInterval(timer);
    say((onTerminal ? ERASE_LINE : "") + line(mark, text));
  };
  try {
    const better = await work((text) => {
      shown = text;
    });
    finish(green("✓"), typeof better === "string" ? better : title);
    return better;
  } catch (error) {
    finish(red("✗"), title);
    throw error;
  }
}

/** Tells of a failed run: what was wrong, what a tool said about it. */
export function sayFailure(error) {
  if (!(error instanceof StepFailed)) {
    process.stderr.write(`\n${error?.stack ?? error}\n`);
    return;
  }
  const detail = error.detail.trim();
  process.stderr.write(`\n${detail ? `${detail}\n\n` : ""}${bold(error.message)}\n`);
}
