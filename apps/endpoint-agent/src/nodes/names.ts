/** How nodes are named in the scheduler and the journal. */

/** The node in the agent's own process. */
export const LOCAL_NODE = "local";

/** Under 256 bytes, as a journal record has one for its length. The node `node` of a block, in the block's start number `restart`: a requeued block's nodes are new ones. */
export function nodeName(block: string, node: string, restart: number): string {
  return restart === 0 ? `${block}/${node}` : `${block}/${node}~${restart}`;
}
