/** Seeded randomness: the same seed gives the same schedule and the same workload, whatever the machine does. */

/** mulberry32, seeded by a text so that streams can be named: `seededRandom(7, "schedule")`. */
export function seededRandom(...names) {
  let state = 0x811c9dc5;
  for (const char of names.join("/")) state = Math.imul(state ^ char.charCodeAt(0), 0x01000193);
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return {
    next,
    /** A whole number from `least` to `most`, both included. */
    int: (least, most) => least + Math.floor(next() * (most - least + 1)),
    chance: (probability) => next() < probability,
    pick: (list) => list[Math.floor(next() * list.length)],
    shuffle(list) {
      const out = [...list];
      for (let i = out.length - 1; i > 0; i--) {
        const j = Math.floor(next() * (i + 1));
        [out[i], out[j]] = [out[j], out[i]];
      }
      return out;
    },
    /** One of `[{ weight }]`, by weight. */
    weighted(list) {
      let at = next() * list.reduce((sum, { weight }) => sum + weight, 0);
      for (const one of list) {
        at -= one.weight;
        if (at < 0) return one;
      }
      return list.at(-1);
    },
  };
}
