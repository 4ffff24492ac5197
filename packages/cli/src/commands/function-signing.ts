/** `farloom functions sign`: a signature for what is registered already. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { FarloomError, type FunctionDefinition, functionDigest } from "@farloom/protocol";
import { type Farloom, type FunctionInfo, loadSignKey, signById } from "@farloom/sdk";
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { ago, wholeNumber } from "../values.js";

interface SignFlags {
  readonly key: string;
  readonly file?: string;
  readonly days?: number;
}

export function addFunctionSigning(functions: Command, { output }: Context): void {
  functions
    .command("sign <ref>")
    .description("sign one version with a key of this machine")
    .option("--key <key>", "name or file of the key (farloom keys sign-key create)", "default")
    .option("--file <file>", "sign only if its code is this file's, so that no service can have changed it")
    .option("--days <n>", "for how long the signature counts (default: for ever)", wholeNumber)
    .action((ref: string, flags: SignFlags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const key = loadSignKey(flags.key);
        const { fn, definition } = await definitionAt(farloom, ref, signal);
        if (flags.file !== undefined && !readFileSync(flags.file).equals(definition.code))
          throw new FarloomError("SIGNING_FAILED", {
            detail: `the code of ${fn.ref} is not that of ${flags.file}`,
          });
        const expires =
          flags.days === undefined ? {} : { expires: Math.floor(Date.now() / 1000) + flags.days * 86_400 };
        await signById(farloom.functions, { id: fn.id, ref: fn.ref, key, ...expires }, { signal });
        const codeSha256 = createHash("sha256").update(definition.code).digest("hex");
        output.result({ ref: fn.ref, id: fn.id, keyId: key.keyId, codeSha256 }, () =>
          [
            `Signed ${output.style("bold", fn.ref)} with the key ${key.keyId}.`,
            `${definition.runtime}, ${definition.code.length} bytes of code with SHA-256 ${codeSha256}`,
            ...(flags.file === undefined
              ? ["It is what the service showed; with --file it is compared first."]
              : []),
          ].join("\n"),
        );
      }),
    );

  functions
    .command("signatures <ref>")
    .description("who signed one version, by what the signatures say")
    .action((ref: string, _flags: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { items } = await farloom.functions.signatures(ref, { signal });
        output.list(
          items,
          ["KEY", "SIGNED AS", "ADDED", "BY", "EXPIRES"],
          (item) => [
            item.keyIds.join(" "),
            item.name,
            ago(item.addedAt),
            item.addedBy,
            item.expiresAt ?? "never",
          ],
          `Nobody has signed it. farloom functions sign ${ref}`,
        );
      }),
    );
}

/** What the service keeps, whole, and under the digest that it has by our own reckoning. @throws SIGNING_FAILED */
async function definitionAt(
  farloom: Farloom,
  ref: string,
  signal: AbortSignal,
): Promise<{ fn: FunctionInfo; definition: Omit<FunctionDefinition, "digest"> }> {
  const fn = await farloom.functions.get(ref, { signal });
  const { body } = await farloom.rest.send({
    path: `/v1/functions/${encodeURIComponent(fn.ref)}/code`,
    signal,
  });
  const { runtime, format, entry, mode, timeoutMs, retries, backoffMs, env, resources, command } =
    fn as unknown as Omit<FunctionDefinition, "digest">;
  const definition = {
    runtime,
    format,
    code: Buffer.from(body),
    entry,
    mode,
    timeoutMs,
    retries,
    backoffMs,
    env,
    resources,
    ...(command === undefined ? {} : { command }),
  };
  const digest = functionDigest(definition).toString("hex");
  if (digest !== fn.id)
    throw new FarloomError("SIGNING_FAILED", {
      detail: `the service calls it ${fn.id}, and its bytes are ${digest}`,
    });
  return { fn, definition };
}
