/** The folders of a boxed worker on the agent's side. */

/** In the worker's folder it may write, as in `payloads`; `args` it reads, and of `taken` it knows nothing. */
export interface OwnPlaces {
  readonly worker: string;
  readonly args: string;
  readonly payloads: string;
  readonly taken: string;
}

export function ownPlaces(dir: string): OwnPlaces {
  return { worker: dir, args: `${dir}.args`, payloads: `${dir}.payloads`, taken: `${dir}.taken` };
}

/** All that belongs to a worker on disk. */
export function foldersOf(dir: string): readonly string[] {
  return Object.values(ownPlaces(dir));
}
