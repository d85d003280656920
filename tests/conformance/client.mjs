// One server, driven by the TypeScript SDK as a second implementation; prints JSON for the test.
//
//   node client.mjs '{"library": "v2", "mode": "modern", "url": "http://.../mcp"}'
//   node client.mjs '{"library": "v1", "command": ["codecell", "serve"]}'

const asked = JSON.parse(process.argv[2]);
const { Client, Http, Sse, Stdio } = asked.library === "v1" ? await v1() : await v2();

async function v1() {
  const base = "@modelcontextprotocol/sdk/client";
  return {
    Client: (await import(`${base}/index.js`)).Client,
    Http: (await import(`${base}/streamableHttp.js`)).StreamableHTTPClientTransport,
    Sse: (await import(`${base}/sse.js`)).SSEClientTransport,
    Stdio: (await import(`${base}/stdio.js`)).StdioClientTransport,
  };
}

async function v2() {
  const client = await import("@modelcontextprotocol/client");
  const stdio = await import("@modelcontextprotocol/client/stdio");
  return {
    Client: client.Client,
    Http: client.StreamableHTTPClientTransport,
    Sse: client.SSEClientTransport,
    Stdio: stdio.StdioClientTransport,
  };
}

function transport() {
  if (asked.command) {
    const [command, ...args] = asked.command;
    return new Stdio({ command, args, env: process.env, stderr: "ignore" });
  }
  const url = new URL(asked.url);
  const options = { requestInit: { headers: asked.headers ?? {} } };
  return url.pathname.endsWith("/sse") ? new Sse(url, options) : new Http(url, options);
}

const negotiation = asked.mode === "modern" ? { mode: { pin: "2026-07-28" } } : { mode: "legacy" };
const options = asked.library === "v1" ? {} : { versionNegotiation: negotiation };
const client = new Client({ name: "second-implementation", version: "1" }, options);
const found = {};

async function call(code, more = {}, rest = {}) {
  const params = { name: "execute_code", arguments: { language: "python", code, ...more } };
  return asked.library === "v1"
    ? client.callTool(params, undefined, rest)
    : client.callTool(params, rest);
}

await client.connect(transport());
found.server = client.getServerVersion()?.name;
found.instructions = client.getInstructions();
found.tools = (await client.listTools()).tools.map((tool) => tool.name);

const nonce = `${process.pid}-${Math.random()}`;
const ran = await call(`print(${JSON.stringify(nonce)})`);
found.nonce = ran.structuredContent.stdout === `${nonce}\n`;
found.status = ran.structuredContent.status;

const refused = await call("print(1)", { timeout: -1 });
found.refused = [refused.isError, refused.content[0].text];

const progress = [];
await call("import time; time.sleep(1.6)", {}, {
  onprogress: (update) => progress.push(update.message),
});
found.progress = progress;

try {
  await client.callTool({ name: "nothing", arguments: {} });
  found.unknown = "was answered";
} catch (error) {
  found.unknown = error.code;
}

const stop = new AbortController();
setTimeout(() => stop.abort("enough"), 700);
const began = Date.now();
try {
  await call("while True: pass", { timeout: 30 }, { signal: stop.signal });
  found.cancelled = "was answered";
} catch {
  found.cancelled = Date.now() - began < 5000;
}

await client.close();
console.log(JSON.stringify(found));
process.exit(0);
