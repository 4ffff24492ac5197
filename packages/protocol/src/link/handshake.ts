/** Choosing a version and capabilities (P6, P7), the same for both sides of every hop. */
import { SUPPORTED_VERSIONS } from "../limits.js";

export const CAPABILITIES = ["ref", "stream", "cancel-running", "progress", "report", "submitter"] as const;
export type Capability = (typeof CAPABILITIES)[number];

export type Agreement =
  | { readonly ok: true; readonly version: number; readonly caps: string[] }
  | { readonly ok: false; readonly code: "VERSION_UNSUPPORTED"; readonly message: string };

/** What two peers have in common. */
export function agree(
  theirs: { readonly versions: readonly number[]; readonly caps: readonly string[] },
  ours: { readonly versions?: readonly number[]; readonly caps: readonly string[] },
): Agreement {
  const versions = ours.versions ?? SUPPORTED_VERSIONS;
  const version = Math.max(...versions.filter((v) => theirs.versions.includes(v)));
  if (!Number.isFinite(version)) {
    return {
      ok: false,
      code: "VERSION_UNSUPPORTED",
      message: `this side speaks protocol ${versions.join(", ")}, the other ${theirs.versions.join(", ") || "none"}; upgrade the older one`,
    };
  }
  return { ok: true, version, caps: ours.caps.filter((c) => theirs.caps.includes(c)) };
}
