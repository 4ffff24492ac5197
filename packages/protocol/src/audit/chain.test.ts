import { describe, expect, it } from "vitest";
import { AUDIT_GENESIS, type AuditEntry, type AuditFields, AuditVerifier, auditHash } from "./chain.js";

function chain(n: number): AuditEntry[] {
  const entries: AuditEntry[] = [];
  for (let seq = 1; seq <= n; seq++) {
    const fields: AuditFields = {
      seq,
      at: "2026-01-01T00:00:00.000Z",
      ownerId: "",
      actor: "ann",
      credential: "k",
      action: "keys.create",
      target: `key-${seq}`,
      origin: "127.0.0.1",
      status: 201,
      code: "",
      detail: "{}",
    };
    const previous = entries.at(-1)?.hash ?? AUDIT_GENESIS;
    entries.push({ ...fields, previous, hash: auditHash(previous, fields) });
  }
  return entries;
}
const broken = (entries: readonly AuditEntry[]): string | undefined => {
  const verifier = new AuditVerifier();
  for (const entry of entries) {
    const why = verifier.add(entry);
    if (why !== undefined) return why;
  }
  return undefined;
};

describe("the audit chain", () => {
  it("holds as it was written, and its head is the last entry", () => {
    const entries = chain(5);
    expect(broken(entries)).toBeUndefined();
    const verifier = new AuditVerifier();
    for (const entry of entries) verifier.add(entry);
    expect(verifier.head).toEqual({ seq: 5, hash: entries[4]!.hash });
  });

  it("breaks where any field of any entry is another", () => {
    for (const field of Object.keys(chain(1)[0]!) as (keyof AuditEntry)[]) {
      const entries = chain(3);
      const value = entries[1]![field];
      entries[1] = {
        ...entries[1]!,
        [field]: typeof value === "number" ? value + 1 : `${value}0`,
      } as AuditEntry;
      expect(broken(entries), field).toMatch(/entry [23]/);
    }
  });

  it("breaks where one is left out, put in, or changes its place", () => {
    const [one, two, three] = chain(3) as [AuditEntry, AuditEntry, AuditEntry];
    expect(broken([one, three])).toContain("entry 3 follows entry 1");
    expect(broken([two, three])).toContain("entry 2 follows entry 0");
    expect(broken([one, one, two])).toContain("entry 1 follows entry 1");
    expect(broken([one, three, two])).toBeDefined();
  });

  it("breaks at the next entry where one was changed and hashed anew", () => {
    const entries = chain(3);
    const forged = { ...entries[1]!, actor: "eve" };
    entries[1] = { ...forged, hash: auditHash(forged.previous, forged) };
    expect(broken(entries)).toContain("entry 3 does not follow");
  });
});
