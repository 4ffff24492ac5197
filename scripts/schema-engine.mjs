// Prisma's schema engine in its WebAssembly form: the offline road to migrations, as the native engine comes
// from a host that is often unreachable. Used by migration-new.mjs and by the drift test; never at run time.
//
// The package targets bundlers (it imports a .wasm file), so it is instantiated by hand here.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
// The packages belong to the web service, wherever npm has put them.
const require = createRequire(join(root, "apps/web-service/package.json"));

export const schemaFile = join(root, "prisma/schema.prisma");
export const migrationsDir = join(root, "prisma/migrations");
export const snapshotFile = join(migrationsDir, "schema.snapshot.prisma");

const noFilters = { externalTables: [], externalEnums: [] };
let bindings;

async function loadBindings() {
  if (bindings) return bindings;
  const glueFile = require.resolve("@prisma/schema-engine-wasm/schema_engine_bg");
  const glue = await import(pathToFileURL(glueFile).href);
  const wasmFile = join(dirname(glueFile), "schema_engine_bg.wasm");
  const { instance } = await WebAssembly.instantiate(readFileSync(wasmFile), {
    "./schema_engine_bg.js": glue,
  });
  let panicMessage = "";
  globalThis.PRISMA_WASM_PANIC_REGISTRY = {
    get: () => panicMessage,
    set_message: (message) => {
      panicMessage = message;
    },
  };
  glue.__wbg_set_wasm(instance.exports);
  instance.exports.__wbindgen_start();
  bindings = glue;
  return glue;
}

/** The OID of PostgreSQL's one-byte "char", which the catalogs use for kinds of constraints and actions. */
const CHAR_OID = 18;
const TEXT_OID = 25;

/**
 * adapter-pg as the engine can use it. The stock one refuses columns of type "char", and it splits a script on
 * ';', which breaks dollar-quoted functions: here it is sent whole.
 */
function migrationAdapterFactory(connectionString) {
  const { PrismaPg } = require("@prisma/adapter-pg");
  const { bindMigrationAwareSqlAdapterFactory, ColumnTypeEnum } = require("@prisma/driver-adapter-utils");
  const factory = new PrismaPg({ connectionString });
  const connect = factory.connect.bind(factory);
  factory.connect = async () => {
    const adapter = await connect();
    const { performIO, queryRaw } = adapter;
    adapter.queryRaw = async (query) => {
      const charColumns = [];
      const passing = Object.create(adapter, {
        performIO: {
          value: async (input) => {
            const result = await performIO.call(adapter, input);
            result.fields.forEach((field, index) => {
              if (field.dataTypeID !== CHAR_OID) return;
              charColumns.push(index);
              field.dataTypeID = TEXT_OID;
            });
            return result;
          },
        },
      });
      const result = await queryRaw.call(passing, query);
      for (const index of charColumns) result.columnTypes[index] = ColumnTypeEnum.Character;
      return result;
    };
    adapter.executeScript = async (script) => {
      await adapter.underlyingDriver().query(script);
    };
    return adapter;
  };
  return bindMigrationAwareSqlAdapterFactory(factory);
}

/** Stands in where only schemas are compared: the engine asks for a version at start, and nothing afterwards. */
function absentDatabase() {
  const { bindMigrationAwareSqlAdapterFactory } = require("@prisma/driver-adapter-utils");
  const connection = {
    provider: "postgres",
    adapterName: "none",
    queryRaw: async () => ({ columnNames: [], columnTypes: [], rows: [] }),
    executeRaw: async () => 0,
    executeScript: async () => {},
    getConnectionInfo: () => ({ schemaName: "public", supportsRelationJoins: false }),
    dispose: async () => {},
  };
  const connect = async () => connection;
  return bindMigrationAwareSqlAdapterFactory({
    provider: "postgres",
    adapterName: "none",
    connect,
    connectToShadowDb: connect,
  });
}

async function openEngine(datamodel, connectionString) {
  const { SchemaEngine } = await loadBindings();
  const adapter =
    connectionString === undefined ? absentDatabase() : migrationAdapterFactory(connectionString);
  return SchemaEngine.new({ datamodels: [["schema.prisma", datamodel]] }, () => {}, adapter);
}

const datamodelTarget = (content) => ({
  tag: "schemaDatamodel",
  files: [{ path: "schema.prisma", content }],
});

/** The text of schema.prisma. */
export const readSchema = () => readFileSync(schemaFile, "utf8");

/** The schema that the last migration led to; empty before the first. */
export const readSnapshot = () => (existsSync(snapshotFile) ? readFileSync(snapshotFile, "utf8") : "");

/**
 * The SQL that leads from one schema to another, without a database. Empty when they agree.
 * @param {string} from Schema text; "" stands for an empty database.
 * @param {string} to Schema text.
 * @returns {Promise<string>}
 */
export async function diffSchemas(from, to) {
  const engine = await openEngine(to);
  try {
    const result = await engine.diff({
      from: from === "" ? { tag: "empty" } : datamodelTarget(from),
      to: datamodelTarget(to),
      script: true,
      exitCode: true,
      filters: noFilters,
    });
    return result.exitCode === 0 ? "" : (result.stdout ?? "");
  } finally {
    engine.free();
  }
}

/**
 * What separates a live database from a schema, as SQL. Empty when there is no drift. Indexes and triggers that
 * Prisma cannot express are not part of its comparison.
 * @param {string} connectionString
 * @param {string} schema Schema text.
 * @returns {Promise<string>}
 */
export async function diffDatabase(connectionString, schema) {
  const engine = await openEngine(schema, connectionString);
  try {
    const result = await engine.diff({
      from: { tag: "schemaDatasource", configDir: root, files: [{ path: "schema.prisma", content: schema }] },
      to: datamodelTarget(schema),
      script: true,
      exitCode: true,
      filters: noFilters,
    });
    return result.exitCode === 0 ? "" : (result.stdout ?? "");
  } finally {
    engine.free();
  }
}
