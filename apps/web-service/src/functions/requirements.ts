/**
 * Whether a package is there in the version that is asked for: the part of pip's rules that needs no pip, as in the Python
 * client (_packages.py), with which vectors/requirements.json holds it together.
 *
 * `name`, `name[extra]`, `name>=2,<3`, `name~=1.4`, `name==1.*`. Of versions the numbers are compared; what follows them
 * (a1, .post2, +cu121) makes no difference.
 */

export interface Requirement {
  /** As lists of packages have it. */
  readonly name: string;
  readonly rules: readonly { readonly operator: string; readonly version: string }[];
}

const NAME = /^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(.*)$/;
const RULE = /^\s*(==|!=|<=|>=|~=|<|>)\s*v?(\d+(?:\.\d+)*(?:\.\*)?)[^,\s]*\s*$/;

/** Undefined where the text names no package as pip does. */
export function parseRequirement(text: string): Requirement | undefined {
  const [, name, rest = ""] = NAME.exec(text) ?? [];
  if (name === undefined) return undefined;
  const rules: { operator: string; version: string }[] = [];
  for (const part of rest === "" ? [] : rest.split(",")) {
    const [, operator, version] = RULE.exec(part) ?? [];
    if (operator === undefined || version === undefined) return undefined;
    rules.push({ operator, version });
  }
  return { name: name.replace(/[-_.]+/g, "-").toLowerCase(), rules };
}

export function satisfies(version: string, { rules }: Requirement): boolean {
  const have = numbersOf(version);
  return rules.every(({ operator, version: wanted }) => {
    const numbers = numbersOf(wanted);
    const width = wanted.endsWith(".*") ? numbers.length : Math.max(have.length, numbers.length);
    const order = compare(have, numbers, width);
    switch (operator) {
      case "==":
        return order === 0;
      case "!=":
        return order !== 0;
      case "<=":
        return order <= 0;
      case ">=":
        return order >= 0;
      case "<":
        return order < 0;
      case ">":
        return order > 0;
      default:
        return order >= 0 && numbers.slice(0, -1).every((number, i) => have[i] === number);
    }
  });
}

function numbersOf(version: string): number[] {
  const [, release = ""] = /^v?(?:\d+!)?(\d+(?:\.\d+)*)/.exec(version.trim()) ?? [];
  return release === "" ? [] : release.split(".").map(Number);
}

/** Of the first `width` numbers, where one that is not there is 0. */
function compare(a: readonly number[], b: readonly number[], width: number): number {
  for (let i = 0; i < width; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
