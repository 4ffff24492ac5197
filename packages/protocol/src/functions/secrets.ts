/**
 * Secrets: what a function is given that stands in no argument and no definition (P40). A definition names them; whose
 * values it is given is for the call to say.
 */

/** Secrets that one function may name. */
export const MAX_FUNCTION_SECRETS = 16;
/** Bytes of one value, in UTF-8. */
export const MAX_SECRET_BYTES = 64 * 1024;
/** Shorter values are not looked for in what a function writes: they would be found everywhere. */
export const MIN_MASKED_BYTES = 6;
/** As variables are named, as programs get them so. FARLOOM_ is what workers themselves say. */
export const SECRET_NAME = "^(?!FARLOOM_)[A-Za-z_][A-Za-z0-9_]{0,63}$";

const NAME = new RegExp(SECRET_NAME);

/** Whether a secret may be called so. */
export function isSecretName(text: string): boolean {
  return NAME.test(text);
}
