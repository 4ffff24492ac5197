/** Slurm's short form of a list of nodes: `n[1-3,7],gpu[001-002]x`. */

/** More nodes than the largest machine has; a list that says more is damaged. */
const MOST_HOSTS = 65_536;

/** The names, in order; undefined where the text is no such list. */
export function expandHostList(text: string): string[] | undefined {
  const hosts: string[] = [];
  const parts = text.match(/(?:\[[^\][]*\]|[^,\][])+/g) ?? [];
  if (parts.join(",") !== text) return undefined;
  for (const part of parts) {
    let names = [""];
    for (const piece of part.match(/\[[^\]]*\]|[^[]+/g) ?? []) {
      const endings = piece.startsWith("[") ? expandRanges(piece.slice(1, -1)) : [piece];
      if (endings === undefined || names.length * endings.length > MOST_HOSTS) return undefined;
      names = names.flatMap((name) => endings.map((ending) => name + ending));
    }
    hosts.push(...names);
    if (hosts.length > MOST_HOSTS) return undefined;
  }
  return hosts.every((host) => /^[\w.-]+$/.test(host)) ? hosts : undefined;
}

function expandRanges(text: string): string[] | undefined {
  const numbers: string[] = [];
  for (const range of text.split(",")) {
    const ends = /^(\d{1,9})(?:-(\d{1,9}))?$/.exec(range);
    if (ends === null) return undefined;
    const [first, last] = [Number(ends[1]), Number(ends[2] ?? ends[1])];
    if (last - first >= MOST_HOSTS) return undefined;
    // Leading zeros belong to the name.
    for (let n = first; n <= last; n++) numbers.push(String(n).padStart(ends[1]!.length, "0"));
  }
  return numbers;
}
