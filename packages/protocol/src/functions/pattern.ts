/**
 * Which functions a list means. An entry is an id (64 hexadecimal digits) or `owner/name`, perhaps with `@version`; in
 * names `*` stands for any letters. Narrow keys, endpoints' allow-lists and agents all read lists of these, with this.
 *
 *   F1  An id means those bytes and nothing else; a name means whatever its owner registers under it.
 *   F2  Without `@version` every version is meant.
 *   F3  `*` passes neither `/` nor `@`: nobody's pattern reaches another owner's functions by accident.
 */

/** The longest entry, and how many one list has at most. */
export const MAX_PATTERN_CHARS = 300;
export const MAX_PATTERNS = 256;

const ID = /^[0-9a-f]{64}$/;
/** `owner/name@version` in its three parts. */
const PARTS = /^([^/@]+)\/([^/@]+)@([^/@]+)$/;
const NAMED = /^[A-Za-z0-9_.*-]{1,63}\/[A-Za-z0-9_.*-]{1,128}(?:@(?:\d{1,9}|\*))?$/;

/** A function as lists know it. */
export interface NamedFunction {
  /** 64 lower-case hexadecimal digits. */
  readonly id: string;
  /** `owner/name@version`; undefined where nobody has told its name: then only its id is matched. */
  readonly ref: string | undefined;
}

/** Whether a list, made ready once, means the function. */
export type FunctionMatcher = (fn: NamedFunction) => boolean;

/** Why the text is no entry of such a list, or undefined where it is one. */
export function checkFunctionPattern(text: string): string | undefined {
  if (text.length <= MAX_PATTERN_CHARS && (ID.test(text) || NAMED.test(text))) return undefined;
  return `${JSON.stringify(text.slice(0, 80))} is neither an id of 64 hexadecimal digits nor owner/name, owner/name@version, with * for any letters`;
}

/** Makes a list ready. Entries that are no patterns mean nothing. */
export function functionMatcher(patterns: readonly string[]): FunctionMatcher {
  const ids = new Set(patterns.filter((text) => ID.test(text)));
  const names = patterns.filter((text) => NAMED.test(text)).map(nameMatcher);
  return ({ id, ref }) => {
    if (ids.has(id)) return true;
    const parts = ref === undefined ? undefined : PARTS.exec(ref);
    return parts != null && names.some((name) => name(parts));
  };
}

function nameMatcher(pattern: string): (ref: readonly string[]) => boolean {
  const [, owner, name, version] = PARTS.exec(pattern.includes("@") ? pattern : `${pattern}@*`)!.map(globOf);
  return (ref) => version!(ref[3]!) && name!(ref[2]!) && owner!(ref[1]!);
}

/** Without a regular expression: many stars in one, written by a stranger, would cost minutes. */
function globOf(glob: string): (text: string) => boolean {
  const [first, ...rest] = glob.split("*") as [string, ...string[]];
  const last = rest.pop();
  if (last === undefined) return (text) => text === first;
  return (text) => {
    if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last))
      return false;
    const end = text.length - last.length;
    let at = first.length;
    for (const part of rest) {
      at = text.indexOf(part, at);
      if (at < 0 || at + part.length > end) return false;
      at += part.length;
    }
    return true;
  };
}
