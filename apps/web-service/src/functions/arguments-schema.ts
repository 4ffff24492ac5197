/**
 * The JSON Schema that a function may have for its arguments: `type: "array"` describes the positional ones,
 * `type: "object"` the named ones. Calls in JSON or MessagePack are checked when they are submitted.
 *
 * A schema comes from a user and is evaluated in the service, so only what is cheap in its own size and in that
 * of the data is taken: no regular expressions, no uniqueItems, no recursion, and references that do not blow up.
 */
import { FarloomError } from "@farloom/protocol";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import type { FunctionRecord } from "./registry.js";

const MAX_SCHEMA_BYTES = 64 * 1024;
/** Subschemas after every reference has been written out. */
const MAX_SCHEMA_NODES = 2_000;
const REFUSED = new Set([
  "pattern",
  "patternProperties",
  "uniqueItems",
  "$dynamicRef",
  "$recursiveRef",
  "$id",
  "$anchor",
  "$dynamicAnchor",
  "$async",
]);

type Schema = Readonly<Record<string, unknown>>;

const compiled = new WeakMap<FunctionRecord, ValidateFunction>();

/** Why this cannot be a schema of arguments, or undefined where it can. */
export function checkArgumentsSchema(schema: unknown): string | undefined {
  if (typeof schema !== "object" || schema === null || Array.isArray(schema)) return "a schema is an object";
  const { type } = schema as { type?: unknown };
  if (type !== "array" && type !== "object") {
    return 'its type is "array" (for positional arguments) or "object" (for named ones)';
  }
  if (JSON.stringify(schema).length > MAX_SCHEMA_BYTES) return `more than ${MAX_SCHEMA_BYTES} bytes`;
  try {
    const nodes = countNodes(schema, schema as Schema, []);
    if (nodes > MAX_SCHEMA_NODES) return `more than ${MAX_SCHEMA_NODES} subschemas, references written out`;
    compile(schema as Schema);
    return undefined;
  } catch (error) {
    return (error as Error).message.slice(0, 500);
  }
}

/** @throws FarloomError ARGUMENTS_INVALID where the function has a schema that these arguments do not meet. */
export function checkArguments(fn: FunctionRecord, args: unknown[], kwargs: Record<string, unknown>): void {
  if (fn.argsSchema === undefined) return;
  let validate = compiled.get(fn);
  if (!validate) {
    validate = compile(fn.argsSchema as Schema);
    compiled.set(fn, validate);
  }
  const positional = (fn.argsSchema as { type: string }).type === "array";
  if (positional ? Object.keys(kwargs).length > 0 : args.length > 0) {
    const wanted = positional ? "positional arguments (args)" : "named arguments (kwargs)";
    throw new FarloomError("ARGUMENTS_INVALID", {
      detail: `${fn.ref} takes ${wanted} only, as its argsSchema says`,
    });
  }
  if (validate(positional ? args : kwargs)) return;
  const first = validate.errors![0]!;
  const at = `${positional ? "args" : "kwargs"}${first.instancePath}`;
  const extra =
    first.keyword === "additionalProperties" ? ` (${String(first.params.additionalProperty)})` : "";
  throw new FarloomError("ARGUMENTS_INVALID", { detail: `${at} ${first.message}${extra}` });
}

function compile({ $schema: _, ...schema }: Schema): ValidateFunction {
  // An instance for each schema: names inside one never meet those of another.
  const ajv = new Ajv2020({ strict: false, allErrors: false, validateFormats: false, logger: false });
  return ajv.compile(schema);
}

const MAPS_OF_SCHEMAS = ["properties", "dependentSchemas"];
const LISTS_OF_SCHEMAS = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
const SCHEMAS = [
  "items",
  "additionalItems",
  "additionalProperties",
  "unevaluatedItems",
  "unevaluatedProperties",
  "contains",
  "propertyNames",
  "not",
  "if",
  "then",
  "else",
];

/** Counts subschemas with references written out, and stops once there are too many; throws at what is not taken here. */
function countNodes(node: unknown, root: Schema, refs: readonly string[]): number {
  if (typeof node !== "object" || node === null || Array.isArray(node)) return 1;
  const schema = node as Schema;
  for (const keyword of REFUSED) {
    if (Object.hasOwn(schema, keyword)) {
      throw new Error(`${keyword} is not taken here; leave it out and check it in the function`);
    }
  }
  const children: [unknown, readonly string[]][] = [];
  for (const keyword of MAPS_OF_SCHEMAS) {
    for (const child of Object.values((schema[keyword] as object | undefined) ?? {}))
      children.push([child, refs]);
  }
  for (const keyword of LISTS_OF_SCHEMAS) {
    const list = schema[keyword];
    if (Array.isArray(list)) for (const child of list) children.push([child, refs]);
  }
  for (const keyword of SCHEMAS) {
    if (schema[keyword] !== undefined && !Array.isArray(schema[keyword]))
      children.push([schema[keyword], refs]);
  }
  const { $ref } = schema;
  if ($ref !== undefined) {
    if (typeof $ref !== "string") throw new Error("$ref is a text");
    if (refs.includes($ref)) throw new Error(`${$ref} refers to itself; recursive schemas are not taken`);
    children.push([lookUp($ref, root), [...refs, $ref]]);
  }
  let count = 1;
  for (const [child, path] of children) {
    count += countNodes(child, root, path);
    if (count > MAX_SCHEMA_NODES) break;
  }
  return count;
}

/** What a local reference points at. Only definitions can be pointed at, so a schema cannot contain itself unseen. */
function lookUp(ref: string, root: Schema): unknown {
  const match = /^#\/(\$defs|definitions)\/([^/~%]+)$/.exec(ref);
  const found = match && (root[match[1]!] as Schema | undefined)?.[match[2]!];
  if (found === undefined || found === null)
    throw new Error(`$ref ${ref.slice(0, 100)} is not one of this schema's own $defs`);
  return found;
}
