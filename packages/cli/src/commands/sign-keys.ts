/** `farloom keys sign-key`: keys that sign functions and calls. They stay on this machine; the service knows nothing of them. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import {
  FarloomError,
  isEncryptedKey,
  makeSignKey,
  parsePublicKey,
  privateKeyText,
  publicKeyLine,
} from "@farloom/protocol";
import { signKeyPath, signKeysDir } from "@farloom/sdk";
import type { Command } from "commander";
import { writeWhole } from "../config-file.js";
import type { Context } from "../context.js";
import { CliError, CONFLICT, NOT_FOUND, USAGE } from "../exit-codes.js";

export function addSignKeys(keys: Command, { output }: Context): void {
  const signKey = keys.command("sign-key").description("keys that sign functions and calls, on this machine");

  signKey
    .command("create [name]")
    .description("make a key pair; prints the public line, for farloom endpoint trust add")
    .option(
      "--passphrase-file <file>",
      "encrypt the private key; - reads standard input (or FARLOOM_SIGN_PASSPHRASE)",
    )
    .option("--comment <text>", "whose it is (default: the name)")
    .action((name: string | undefined, flags: { passphraseFile?: string; comment?: string }) => {
      const called = name ?? "default";
      if (!/^[A-Za-z0-9_-]{1,64}$/.test(called))
        throw new CliError("a name is letters, digits, _ and -", USAGE);
      const path = signKeyPath(called);
      if (existsSync(path))
        throw new CliError(`there is a key ${path} already`, CONFLICT, "choose another name");
      const key = makeSignKey();
      const line = publicKeyLine(key.raw, flags.comment ?? called);
      const bad = parsePublicKey(line);
      if ("why" in bad) throw new CliError("a comment is printable ASCII", USAGE);
      writeWhole(path, privateKeyText(key, passphraseOf(flags.passphraseFile)));
      writeWhole(publicPath(path), `${line}\n`);
      output.result({ name: called, keyId: key.keyId, path, publicKey: line }, () => line);
      if (!output.json)
        output.note(
          `The private key is ${path}. Sign with it: farloom functions register FILE --sign ${called}`,
        );
    });

  signKey
    .command("list")
    .description("the keys on this machine")
    .action(() => {
      const dir = signKeysDir();
      const files = existsSync(dir) ? readdirSync(dir).filter((file) => file.endsWith(".pem")) : [];
      const items = files.sort().map((file) => describe(join(dir, file)));
      output.list(
        items,
        ["NAME", "ID", "ENCRYPTED", "PUBLIC KEY"],
        (item) => [item.name, item.keyId, item.isEncrypted ? "yes" : "no", item.publicKey],
        "No keys to sign with. Make one: farloom keys sign-key create",
      );
    });

  signKey
    .command("show [name]")
    .description("the public line of a key")
    .action((name: string | undefined) => {
      const item = describe(signKeyPath(name ?? "default"));
      output.result(item, () => item.publicKey);
    });
}

function describe(path: string) {
  let line: string;
  let isEncrypted: boolean;
  try {
    line = readFileSync(publicPath(path), "utf8").trim();
    isEncrypted = isEncryptedKey(readFileSync(path, "utf8"));
  } catch (error) {
    throw new CliError(
      `there is no key ${path}: ${(error as Error).message}`,
      NOT_FOUND,
      "farloom keys sign-key create",
    );
  }
  const parsed = parsePublicKey(line);
  if ("why" in parsed)
    throw new FarloomError("SIGNING_FAILED", { detail: `${publicPath(path)}: ${parsed.why}` });
  return { name: basename(path, ".pem"), keyId: parsed.keyId, path, isEncrypted, publicKey: line };
}

const publicPath = (path: string): string => `${path.replace(/\.pem$/, "")}.pub`;

/** Never from the command line, where every process list shows it. */
function passphraseOf(file: string | undefined): string | undefined {
  if (file === undefined) return process.env.FARLOOM_SIGN_PASSPHRASE || undefined;
  const text = readFileSync(file === "-" ? 0 : file, "utf8").replace(/\r?\n$/, "");
  if (text === "") throw new CliError("the passphrase is empty", USAGE);
  return text;
}
