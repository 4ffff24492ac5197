/** What a function needs, as the name of its lane says it, and why a node may never have it. */
import type { NodeCapacity, Resources } from "@farloom/protocol";
import { gpuSlotsOf } from "../../gpu-slots.js";
import { type GearNeed, NO_NEED } from "./ledger.js";
import type { NodeGear } from "./node-gear.js";

/** `[gpus=2,memory=512]python:default`: slots, cores and megabytes that each of its workers has for itself. */
export function laneOf(program: string, resources: Resources, gear: NodeGear | undefined): string {
  if (gear === undefined) return program;
  const { gpuSlots, cores, memoryMb } = gear.needOf(resources);
  const parts = [
    ...(gpuSlots > 0 ? [`gpus=${gpuSlots}`] : []),
    ...(cores > 0 ? [`cores=${cores}`] : []),
    ...(memoryMb > 0 ? [`memory=${memoryMb}`] : []),
  ];
  return parts.length === 0 ? program : `[${parts.join(",")}]${program}`;
}

/** The parts of a lane's name. No interpreter's name can begin so, as a program's name has its runtime before it. */
export function splitLane(name: string): { readonly need: GearNeed; readonly program: string } {
  const match = /^\[([a-z0-9=,]*)\]/.exec(name);
  if (match === null) return { need: NO_NEED, program: name };
  const told = new Map((match[1] ?? "").split(",").map((part) => part.split("=") as [string, string]));
  const of = (part: string): number => Number(told.get(part) ?? 0);
  return {
    need: { gpuSlots: of("gpus"), cores: of("cores"), memoryMb: of("memory") },
    program: name.slice(match[0].length),
  };
}

/** In words, where nobody else will ever run it (`alone`) or its workers could never start; otherwise undefined. */
export function impossibleHere(
  resources: Resources,
  node: { readonly gear: NodeGear | undefined; readonly capacity: NodeCapacity | undefined },
): string | undefined {
  const { gear, capacity } = node;
  const { cores = 1, memoryMb = 0, gpus = 0, nodes = 0 } = resources;
  const asks = (what: string, has: string): string =>
    `the function asks for ${what}; this endpoint has ${has}. Ask for less, or send the call to an endpoint that has it`;
  if (gear !== undefined && !gear.canEverMeet(gear.needOf(resources))) {
    const { info } = gear;
    return gpus > 0
      ? asks(`${gpus} GPUs`, `${info.gpus.length} (${info.gpusFrom})`)
      : asks(`${cores} cores`, `workers ${info.cores}`);
  }
  if (capacity?.alone !== true) return undefined;
  if (nodes > 1) return asks(`${nodes} nodes`, "1");
  const slots = capacity.gpuSlots ?? 1;
  if (gpuSlotsOf(gpus, slots) > (capacity.gpus ?? 0) * slots)
    return asks(`${gpus} GPUs`, `${capacity.gpus ?? 0}`);
  const perNode = nodes > 0 ? cores * (resources.ranksPerNode ?? resources.ranks ?? 1) : cores;
  if (perNode > (capacity.cores ?? capacity.places)) return asks(`${perNode} cores`, `${capacity.cores}`);
  if (memoryMb > (capacity.memoryMb ?? 0)) return asks(`${memoryMb} MB of memory`, `${capacity.memoryMb} MB`);
  return undefined;
}
