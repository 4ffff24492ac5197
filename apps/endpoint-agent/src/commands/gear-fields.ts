/** What an agent's status tells of its Pythons and of what its workers have for themselves, as lines for people. */
import type { AgentInfo } from "@farloom/protocol";

/** Labels and values; undefined where an older agent, or one with blocks, tells nothing of it. */
export function gearFields(agent: Partial<AgentInfo> | undefined): [string, string | undefined][] {
  const { gear, pythons = {} } = agent ?? {};
  const versions = Object.entries(pythons).map(([name, { version }]) => `${name} ${version}`);
  return [
    ["pythons", versions.length > 0 ? versions.join(", ") : undefined],
    ["GPUs", gear && `${gpusOf(gear)} (${gear.gpusFrom})`],
    ["cores", gear?.cores],
    ["memory", gear?.memory],
  ];
}

function gpusOf({ gpus, gpuSlots }: NonNullable<AgentInfo["gear"]>): string {
  if (gpus.length === 0) return "none";
  const names = new Map<string, number>();
  for (const { id, name = `device ${id}` } of gpus) names.set(name, (names.get(name) ?? 0) + 1);
  const listed = [...names].map(([name, count]) => (count > 1 ? `${count} × ${name}` : name)).join(", ");
  return gpuSlots > 1 ? `${listed}, ${gpuSlots} shares each` : listed;
}
