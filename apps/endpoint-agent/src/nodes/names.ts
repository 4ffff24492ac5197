/** How nodes are named in the scheduler and the journal. */

/** The node in the agent's own process. */
export const LOCAL_NODE = "local";

/**
 * The node `node` of a block, in the block's start number `restart`: a requeued block's nodes are new ones. Under 256
 * bytes, as a journal record has one byte for its length.
 */
export function nodeName(block: string, node: string, restart: number): string {
  return restart === 0 ? `${block}/${node}` : `${block}/${node}~${restart}`;
}
