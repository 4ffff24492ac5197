/** Lists of cores as the kernel writes them: `0-3,8`. */

/** More than any machine has. */
const MAX_CORES = 65_536;

/** Their numbers; none where the text is no such list. */
export function parseCpuList(text: string): number[] {
  const cores: number[] = [];
  for (const part of text.trim().split(",")) {
    const range = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part);
    if (range === null) return [];
    const last = Number(range[2] ?? range[1]);
    for (let core = Number(range[1]); core <= last && cores.length < MAX_CORES; core++) cores.push(core);
  }
  return cores;
}
