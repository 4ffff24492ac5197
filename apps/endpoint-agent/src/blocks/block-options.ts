/** What every provider's blocks have in common: the part of the options that makes a `BlockRequest`. */
import { script, walltime, whole } from "./options.js";

export const BLOCK_OPTIONS = {
  nodesPerBlock: whole("Nodes of one block.", 1, 4096, 1),
  walltime: walltime("A block's time limit. Without one the batch system's own default holds."),
  workerInit: script(
    "Shell lines that a node runs before its workers start: modules, conda. They travel in the parameters file.",
  ),
};
