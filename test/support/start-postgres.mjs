// Starts the embedded PostgreSQL of a directory and stays, as a service would, for the tests that kill -9 it.
// Prints one line of JSON when ready. Runs the build, as a process of its own cannot run TypeScript.
import { pino } from "pino";
import { startEmbeddedPostgres } from "../../apps/web-service/dist/store/embedded-postgres.js";

const server = await startEmbeddedPostgres({ dataDir: process.argv[2], log: pino({ level: "silent" }) });
process.stdout.write(`${JSON.stringify({ url: server.url, pid: server.pid })}\n`);
setInterval(() => {}, 60_000);
