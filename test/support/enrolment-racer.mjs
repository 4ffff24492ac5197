// Brings one enrolment code to a service again and again, each time with another key: SERVICE CODE TRIES CONNECTIONS.
// Opens its connections, says "connected", and begins at the first word on standard input. Then says whose key won, and
// how often each other answer came.
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { Agent, request } from "node:http";

const [service, code, tries, lines] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true, maxSockets: Number(lines) });

/** @param {string} path @param {unknown} [body] @returns {Promise<{status: number | undefined, text: string}>} */
function ask(path, body) {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json" };
    const method = body === undefined ? "GET" : "POST";
    const asked = request(new URL(path, service), { agent, method, headers }, (reply) => {
      let text = "";
      reply.setEncoding("utf8");
      reply.on("data", (chunk) => {
        text += chunk;
      });
      reply.on("end", () => resolve({ status: reply.statusCode, text }));
    });
    asked.on("error", reject);
    asked.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

await Promise.all(Array.from({ length: Number(lines) }, () => ask("/health/live")));
console.log(JSON.stringify("connected"));
await once(process.stdin, "data");

/** @type {string[]} */
const won = [];
/** @type {Record<string, number>} */
const refusals = {};
let left = Number(tries);
const line = async () => {
  while (left-- > 0) {
    const publicKey = randomBytes(32).toString("base64");
    const { status, text } = await ask("/v1/endpoints/enroll", { code, publicKey });
    if (status === 200) won.push(publicKey);
    else refusals[`${status} ${text}`] = (refusals[`${status} ${text}`] ?? 0) + 1;
  }
};
await Promise.all(Array.from({ length: Number(lines) }, line));
agent.destroy();
console.log(JSON.stringify({ won, refusals }));
process.exit(0);
