/** The one-time code of an enrolment. Arguments are read by everybody on a login node, so it is none of them. */
import { readFileSync } from "node:fs";

export interface CodeOptions {
  /** `-`: standard input. Anything else is a code among the arguments. */
  readonly code?: string | undefined;
  /** `-`: standard input. */
  readonly "code-file"?: string | undefined;
}

export const CODE_AMONG_ARGUMENTS =
  "a code among the arguments can be read by everybody on this host: put it into FARLOOM_ENROLMENT_CODE, or give --code-file FILE (- for standard input)";

export const isCodeAmongArguments = ({ code }: CodeOptions): boolean => code !== undefined && code !== "-";

/** From a file, standard input or FARLOOM_ENROLMENT_CODE; undefined where there is none. */
export function enrolmentCode({ code, "code-file": file = code }: CodeOptions): string | undefined {
  const given = process.env.FARLOOM_ENROLMENT_CODE;
  // What is started from here has no use for it.
  delete process.env.FARLOOM_ENROLMENT_CODE;
  const text = file === undefined ? given : readFileSync(file === "-" ? 0 : file, "utf8");
  return text?.trim() || undefined;
}
