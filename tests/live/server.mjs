// A Better Auth as an application runs it: its own HTTP interface under /api/auth, and under
// /server/NAME those of its calls that it offers to its own process alone.
//
//   node server.mjs OPTIONS    JSON: secret, origin, and sqlite (a path) or postgres (a URL)
//
// Prints the port of 127.0.0.1 that it serves on, and ends when its standard input does.

import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { DatabaseSync } from "node:sqlite";
import { json } from "node:stream/consumers";

import { apiKey } from "@better-auth/api-key";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import { admin, organization } from "better-auth/plugins";
import pg from "pg";

const options = JSON.parse(process.argv[2]);

function openSQLite(path) {
  // As long a wait for a lock as better-sqlite3 has; node:sqlite has none.
  const database = new DatabaseSync(path, { timeout: 5000 });
  database.exec("PRAGMA synchronous = OFF"); // no test pulls the plug
  return database;
}

const keys = {
  enableMetadata: true,
  rateLimit: { enabled: true, maxRequests: 1000, timeWindow: 3_600_000 },
  keyExpiration: { minExpiresIn: 0 },
};
// Better Auth's own hash takes its time, which each sign-in would wait for.
const quick = {
  hash: async (password) => createHash("sha256").update(password).digest("hex"),
  verify: async ({ hash, password }) => hash === (await quick.hash(password)),
};
const auth = betterAuth({
  baseURL: options.origin,
  secret: options.secret,
  database: options.sqlite
    ? openSQLite(options.sqlite)
    : new pg.Pool({ connectionString: options.postgres, max: 4 }),
  emailAndPassword: { enabled: true, password: quick },
  user: { deleteUser: { enabled: true } },
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
  logger: { level: "error" },
  plugins: [
    organization(),
    admin(),
    apiKey([
      { ...keys, configId: "default" },
      { ...keys, configId: "organization", references: "organization" },
    ]),
  ],
});

await (await getMigrations(auth.options)).runMigrations();

const serverCalls = {
  ...auth.api,
  // The way in which time passes here: no call of Better Auth's brings a session nearer its end.
  moveSession: async ({ body: { token, expiresAt } }) =>
    (await auth.$context).internalAdapter.updateSession(token, { expiresAt: new Date(expiresAt) }),
};

async function serveCall(name, request, response) {
  let status = 200;
  let result;
  try {
    result = await serverCalls[name]({ body: await json(request) });
  } catch (error) {
    status = error.statusCode ?? 500;
    result = error.body ?? { message: String(error) };
  }
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(result ?? null));
}

const handle = toNodeHandler(auth);
const server = createServer((request, response) => {
  const [, name] = /^\/server\/(\w+)$/.exec(request.url) ?? [];
  return name ? serveCall(name, request, response) : handle(request, response);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();
