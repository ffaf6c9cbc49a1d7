// The pages in Debian's Chromium: every page wide and narrow, every flow, what people can write, and the quick
// start's programs as a visitor copies them.
//
//     node check.mjs PROGRAM [--python PYTHON] [--rust] [--screenshots DIR] [--only WORDS]
//     node check.mjs PROGRAM --measure [--before PROGRAM]
//
// The latter prints a table of bytes and times and checks nothing; with --before, another program's times stand beside, measured in turns; --only is a pattern of pages then. Exit 1 if anything fails. Nothing leaves this machine. --python has openai, langchain-openai and requests.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { positionals: [program], values } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: "string" },
    rust: { type: "boolean" },
    screenshots: { type: "string" },
    measure: { type: "boolean" },
    before: { type: "string" },
    only: { type: "string" },
  },
});
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const shots = values.screenshots;
if (shots) mkdirSync(shots, { recursive: true });
const WIDTHS = [1280, 390];
const PAGES = {
  models: "/",
  "model-mini": "/models/quintet/mini",
  "model-jina": "/models/jinaai/jina-embeddings-v3",
  "model-openai": "/models/openai/text-embedding-3-large",
  compare: "/compare?models=jinaai/jina-embeddings-v3,quintet/mini,BAAI/bge-m3,openai/text-embedding-3-large",
  "compare-empty": "/compare",
  playground: "/playground",
  quality: "/quality",
  docs: "/docs",
};
/** Of a hosted service: what the door shows to everyone, the account's pages, and the operator's. */
const DOOR = { "sign-in": "/sign-in", "sign-up": "/sign-up" };
const ACCOUNT = {
  "account-overview": "/account/overview",
  "account-keys": "/account/keys",
  "account-batches": "/account/batches",
  "account-ledger": "/account/ledger",
};
const ADMIN = { "admin-live": "/admin/live", "admin-accounts": "/admin/accounts", "admin-batches": "/admin/batches", "admin-audit": "/admin/audit" };
const KILOBYTES = 100;
const HOSTILE = `"'><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>&amp;`;

// Clients would ask a proxy for the loopback.
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name)));
const work = mkdtempSync(join(tmpdir(), "quintet-pages-"));
const servers = [];

/** Which program is launched: the one that is measured beside the other, for a while. */
let launched = program;

async function serve(...options) {
  const child = spawn(launched, ["serve", "--model", "mini", "--listen", "127.0.0.1:0", "--log-format", "json", ...options], {
    stdio: ["ignore", "ignore", "pipe"],
    env: environment,
  });
  servers.push(child);
  const server = { log: "", child };
  child.stderr.on("data", (data) => (server.log += data));
  const found = () => /"address":"([^"]+)"/.exec(server.log)?.[1];
  for (let wait = 0; !found() && wait < 300; wait++) await new Promise((done) => setTimeout(done, 100));
  server.url = `http://${found()}`;
  for (let wait = 0; wait < 600; wait++) {
    if ((await fetch(`${server.url}/health/ready`)).ok) return server;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`the server is not ready: ${server.log}`);
}

/** The program's own commands change the state, as an operator does. */
function quintet(state, ...words) {
  const output = execFileSync(launched, [...words, "--state", state, "--json"], { encoding: "utf8", env: environment, stdio: ["ignore", "pipe", "ignore"] });
  return JSON.parse(output);
}

/** A hosted service with a customer who has used something, and an operator. */
async function host(name, ...options) {
  const state = join(work, `${name}.db`);
  const account = (title, ...scopes) => {
    const { id } = quintet(state, "accounts", "create", title);
    const key = quintet(state, "keys", "create", "--account", id, "first", ...scopes.flatMap((scope) => ["--scope", scope]));
    return { id, key: key.key };
  };
  const customer = account("Stork Search Ltd", "embed", "account");
  const operator = account("Operators", "admin");
  quintet(state, "credit", "grant", customer.id, "25", "--note", "invoice 117");
  const looking = quintet(state, "keys", "create", "--account", customer.id, "website").key;
  if (shots) months(state, customer.id);
  const server = await serve("--state", state, "--price", "0.02", "--batch-price", "0.01", "--sign-up", "open", "--free-credit", "0.25", ...options);
  Object.assign(server, { state, account: customer.id, key: customer.key, looking, admin: operator.key });
  const embed = (key, input, task, tier = "realtime") =>
    fetch(`${server.url}/v1/embeddings`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json", "x-tier": tier },
      body: JSON.stringify({ input, task }),
    });
  for (let number = 0; number < 60; number++) {
    const [key, task, tier] = number % 3 ? [looking, "retrieval.query"] : [customer.key, "retrieval.passage", "batch"];
    const answer = await embed(key, `Where do storks spend the winter of ${number}? ${"Far away. ".repeat(number)}`, task, tier);
    assert.equal(answer.status, 200, await answer.text());
  }
  // One whose lines are not all right when they run, and one that is refused before.
  const line = (number, body) => JSON.stringify({ custom_id: `n${number}`, method: "POST", url: "/v1/embeddings", body });
  const lines = Array.from({ length: 120 }, (_, number) => line(number, { input: number % 40 ? `stork number ${number}` : "" }));
  const answered = await leave(server, customer.key, lines, { job: "nightly", shelf: "birds" });
  const refused = await leave(server, customer.key, [line(1, { input: "a" }), "no JSON", line(1, { input: "b" }), line(2, {})]);
  await batchEnded(server, customer.key, answered);
  await batchEnded(server, customer.key, refused);
  return server;
}

const bearer = (key) => ({ authorization: `Bearer ${key}` });

/** Leaves a batch of these lines, and gives its id. */
async function leave(server, key, lines, metadata) {
  const form = new FormData();
  form.set("purpose", "batch");
  form.set("file", new Blob([lines.join("\n")]), "lines.jsonl");
  const file = await (await fetch(`${server.url}/v1/files`, { method: "POST", headers: bearer(key), body: form })).json();
  const asked = { input_file_id: file.id, endpoint: "/v1/embeddings", completion_window: "24h", metadata };
  const answer = await fetch(`${server.url}/v1/batches`, { method: "POST", headers: { ...bearer(key), "content-type": "application/json" }, body: JSON.stringify(asked) });
  assert.equal(answer.status, 200, await answer.clone().text());
  return (await answer.json()).id;
}

async function batchEnded(server, key, id) {
  for (let wait = 0; wait < 600; wait++) {
    const batch = await (await fetch(`${server.url}/v1/batches/${id}`, { headers: bearer(key) })).json();
    if (["completed", "failed", "expired", "cancelled"].includes(batch.status)) return batch;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`the batch ${id} has not ended`);
}

/** More lines than are met while somebody looks. */
const manyLines = () => Array.from({ length: 30_000 }, (_, number) => JSON.stringify({ custom_id: `n${number}`, method: "POST", url: "/v1/embeddings", body: { input: `${"A stork flies far. ".repeat(8)}${number}` } }));

/** For the screenshots: usage of the days before, which no request can make. It is in no ledger. */
function months(state, account) {
  const program = `
import sqlite3, sys, time, random
random.seed(7)
state, account = sys.argv[1:]
database = sqlite3.connect(state)
keys = [row[0] for row in database.execute("SELECT id FROM keys WHERE account_id = ? ORDER BY created_ms", (account,))]
today = int(time.time()) // 86400 * 86400000
for age in range(1, 90):
    busy = 0.35 if (today // 86400000 - age + 3) % 7 > 4 else 1.0
    for key, share in zip(keys, (0.3, 1.0)):
        for task, part in (("retrieval.query", 0.5), ("retrieval.passage", 1.0), ("classification", 0.2)):
            tokens = int(9e6 * busy * share * part * random.uniform(0.6, 1.3) * (1 - age / 150))
            database.execute("INSERT INTO usage_days VALUES (?, ?, ?, ?, ?, ?, ?)", (account, today - age * 86400000, key, task, tokens // 140, tokens, tokens * 20000))
database.commit()
`;
  execFileSync("python3", ["-c", program, state, account]);
}

/** The cookies of somebody who signs in with this key. */
async function signedIn(server, key) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`${server.url}/sign-in`);
  await page.getByLabel("API key").fill(key);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(/overview/);
  const kept = await context.storageState();
  await context.close();
  return kept;
}

let failures = 0;
async function check(name, test) {
  if (!name.includes(values.only ?? "")) return;
  try {
    const words = await test();
    console.log(`ok    ${name}${words ? `: ${words}` : ""}`);
  } catch (error) {
    failures++;
    console.log(`FAILED ${name}: ${error.stack}`);
  }
}

/** A page that fails on an error in the console, a dialog, and a request to elsewhere. */
async function opened(browser, server, path, options = {}, waitUntil = "networkidle") {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.faults = [];
  page.bytes = 0;
  page.on("console", (message) => message.type() === "error" && page.faults.push(message.text()));
  page.on("pageerror", (error) => page.faults.push(String(error)));
  page.on("dialog", (dialog) => (page.faults.push(`dialog ${dialog.message()}`), dialog.dismiss()));
  page.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== server.url && !["data:", "blob:"].includes(protocol)) page.faults.push(`a request to ${request.url()}`);
  });
  page.on("requestfinished", async (request) => {
    const sizes = await request.sizes().catch(() => undefined);
    page.bytes += sizes ? sizes.responseBodySize + sizes.responseHeadersSize : 0;
  });
  const started = performance.now();
  page.answer = await page.goto(server.url + path, { waitUntil, timeout: 30_000 });
  page.loaded = await page.evaluate(() => performance.getEntriesByType("navigation")[0].loadEventEnd);
  page.elapsed = performance.now() - started;
  return page;
}

async function finished(page) {
  assert.deepEqual(page.faults, []);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  await page.context().close();
}

async function accessible(page) {
  // Playwright's own world is not bound by the page's policy.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"] }));
  const serious = violations.filter((it) => ["serious", "critical"].includes(it.impact));
  assert.deepEqual(serious.map((it) => `${it.id}: ${it.nodes.slice(0, 3).map((node) => `${node.html.slice(0, 120)} ${node.any[0]?.message ?? ""}`)}`), []);
  return violations.length;
}

async function run(page) {
  await page.click("#run");
  await page.waitForFunction(() => !document.getElementById("receipt").textContent.startsWith("Running"), undefined, { timeout: 60_000 });
}

/** A run of the quality dial, to its end. */
async function dialled(page) {
  await page.click("#run");
  await measured(page);
}

const measured = (page) => page.waitForFunction(() => document.getElementById("progress").hidden && (document.getElementById("receipt").textContent || !document.getElementById("problem").hidden), undefined, { timeout: 60_000 });

const shoot = async (page, name) => shots && page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const server = await serve();
  const hosted = await host("hosted");
  if (values.measure) {
    const both = [{ server, hosted }];
    if (values.before) {
      launched = values.before;
      both.push({ server: await serve(), hosted: await host("before") });
    }
    for (const it of both) it.visit = await signedIn(it.hosted, it.hosted.admin);
    const titles = ["page", "KB transferred", "first byte, ms", "loaded, ms", ...(values.before ? ["loaded before, ms"] : [])];
    console.log(`| ${titles.join(" | ")} |\n|${"---|".repeat(titles.length)}`);
    await measure(both, ({ server }) => ({ server, pages: PAGES }));
    await measure(both, ({ hosted }) => ({ server: hosted, pages: DOOR }));
    await measure(both, ({ hosted, visit }) => ({ server: hosted, pages: { ...ACCOUNT, ...ADMIN, "admin-account": `/admin/accounts/${hosted.account}` }, storageState: visit }));
  } else {
    await checkAll(server);
    await checkHosted(hosted);
  }
} finally {
  await browser.close();
  for (const server of servers) server.kill();
  rmSync(work, { recursive: true });
}
process.exitCode = failures ? 1 : 0;

/** The median of five loads, nothing kept from one to the next, programs in turns. */
async function measure(both, of) {
  const programs = both.map(of);
  const names = Object.keys(programs[0].pages).filter((name) => new RegExp(values.only ?? "").test(name));
  for (const name of names) {
    const loads = programs.map(() => []);
    for (let load = 0; load < 5; load++) {
      for (const [at, { server, pages, storageState }] of programs.entries()) {
        const page = await opened(browser, server, pages[name], { storageState }, "load");
        // The last sizes are still to come.
        await page.waitForTimeout(50);
        const first = await page.evaluate(() => performance.getEntriesByType("navigation")[0].responseStart);
        if (page.answer.ok()) loads[at].push({ bytes: page.bytes, first, loaded: page.loaded });
        await page.context().close();
      }
    }
    const median = (loads, field, digits = 0) => loads.map((load) => load[field]).toSorted((a, b) => a - b)[2]?.toFixed(digits) ?? "–";
    const [own, ...others] = loads;
    for (const load of own) load.kilobytes = load.bytes / 1024;
    console.log(`| ${[name, median(own, "kilobytes", 1), median(own, "first"), median(own, "loaded"), ...others.map((other) => median(other, "loaded"))].join(" | ")} |`);
  }
}

async function checkAll(server) {
  for (const [name, path] of Object.entries(PAGES)) {
    for (const width of WIDTHS) {
      await check(`${name} at ${width}`, async () => {
        const page = await opened(browser, server, path, { viewport: { width, height: 900 } });
        assert.equal(page.answer.status(), 200);
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than the screen");
        assert.ok(page.bytes < KILOBYTES * 1024, `${page.bytes} bytes`);
        await shoot(page, `${name}-${width}`);
        const words = `${(page.bytes / 1024).toFixed(1)} KB, loaded after ${page.loaded.toFixed(0)} ms`;
        const findings = name === "docs" ? 0 : await accessible(page);
        await finished(page);
        return `${words}, ${findings} findings of axe that are not serious`;
      });
    }
    await check(`${name} in the dark`, async () => {
      const page = await opened(browser, server, path, { colorScheme: "dark" });
      await shoot(page, `${name}-dark`);
      if (name !== "docs") await accessible(page);
      await finished(page);
    });
    await check(`${name} without scripts`, async () => {
      const page = await opened(browser, server, path, { javaScriptEnabled: false });
      assert.ok(await page.locator("h1").isVisible());
      await page.context().close();
    });
  }

  await check("a model that is not there", async () => {
    const page = await opened(browser, server, `/models/none/${encodeURIComponent("<script>window.hacked=1</script>")}`);
    assert.equal(page.answer.status(), 404);
    assert.ok(await page.getByRole("heading", { name: "No such model" }).isVisible());
    // The browser reports the 404 itself.
    page.faults = page.faults.filter((fault) => !fault.includes("404"));
    await finished(page);
  });

  await check("models: find, sort, table, compare", async () => {
    const page = await opened(browser, server, "/");
    const visible = () => page.locator(".card:visible h2").allTextContents();
    assert.equal((await visible())[0], "mini");
    await page.fill("#find", "apache");
    assert.deepEqual((await visible()).toSorted(), ["Qwen3-Embedding-0.6B", "mini"]);
    await page.fill("#find", "no such thing");
    assert.ok(await page.locator("#none").isVisible());
    await page.click("#all");
    await page.selectOption("#sort", "parameters");
    assert.equal((await visible())[0], "Qwen3-Embedding-0.6B");
    await page.selectOption("#status", "comparison");
    assert.equal((await visible()).length, 4);
    await page.selectOption("#status", "");
    await page.click("#as-table");
    await shoot(page, "models-table");
    await page.getByRole("checkbox", { name: "Compare mini" }).check();
    await page.getByRole("checkbox", { name: "Compare jina-embeddings-v3" }).check();
    await page.getByRole("button", { name: "Compare the ticked" }).click();
    await page.waitForURL(/compare/);
    assert.equal(await page.locator("table.compare").first().locator("thead th").count(), 2);
    assert.ok((await page.locator(".best").count()) > 0);
    await finished(page);
  });

  await check("the model page: tabs by keyboard, fillings, copy, the quick start runs", async () => {
    const page = await opened(browser, server, "/models/mini", { permissions: ["clipboard-read", "clipboard-write"] });
    await page.focus("#tab-curl");
    await page.keyboard.press("ArrowRight");
    assert.ok(await page.locator("#code-openai").isVisible());
    assert.ok(!(await page.locator("#code-curl").isVisible()));
    await page.selectOption("#dimensions", "64");
    await page.selectOption("#task", "text-matching");
    await page.locator("#code-openai [data-copy]").click();
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    assert.match(copied, /dimensions=64/);
    assert.match(copied, /mini:text-matching/);
    assert.ok(copied.includes(`${server.url}/v1`));
    const code = (id) => page.locator(`#code-${id} code`).evaluate((it) => it.textContent);
    const answer = shell(await code("curl"));
    assert.equal(JSON.parse(answer).data[0].embedding.length, 64);
    const outputs = { javascript: javascript(await code("javascript")) };
    if (values.python) for (const id of ["openai", "langchain"]) outputs[id] = python(await code(id));
    if (values.rust) outputs.rust = rust(await code("rust"));
    for (const [id, output] of Object.entries(outputs)) assert.match(output, /^64 dimensions/, id);
    await finished(page);
    return ["curl", ...Object.keys(outputs)].join(", ");
  });

  await check("playground: similarity, and its request as code", async () => {
    const page = await opened(browser, server, "/playground");
    await page.getByRole("textbox", { name: "Text 3" }).fill(`It's "quoted" \\ back, 日本 🐦\ntwo lines\u0007`);
    await run(page);
    const cells = await page.locator(".heat td").allTextContents();
    // The first cell is the empty corner.
    assert.deepEqual([cells[1], cells[5], cells[9]], ["1.000", "1.000", "1.000"], String(cells));
    assert.ok(Number(cells[2]) > Number(cells[3]), "the train is nearer to the museum than to the departures");
    assert.match(await page.locator("#receipt").textContent(), /^mini answered · 3 texts · \d+ tokens · [\d,]+ ms · fp_/);
    await page.locator("#as-code summary").click();
    const programs = { curl: shell };
    if (values.rust) programs.Rust = rust;
    if (values.python) programs.Python = python;
    programs.JavaScript = javascript;
    for (const [language, execute] of Object.entries(programs)) {
      await page.selectOption("#language", language);
      const output = execute(await page.locator("#code").evaluate((it) => it.textContent));
      const tokens = /(?:total_tokens["']?:\s*)(\d+)/.exec(output)?.[1];
      assert.ok((await page.locator("#receipt").textContent()).includes(`${tokens} tokens`), `${language}: ${output.slice(-300)}`);
    }
    await shoot(page, "playground-similarity");
    await accessible(page);
    await finished(page);
    return Object.keys(programs).join(", ");
  });

  await check("playground: types and sizes", async () => {
    const page = await opened(browser, server, "/playground");
    const values = [];
    for (const type of ["float", "int8", "binary"]) {
      await page.selectOption("#type", type);
      await page.selectOption("#dimensions", "128");
      await run(page);
      values.push(Number((await page.locator(".heat td").allTextContents())[2]));
    }
    assert.ok(Math.abs(values[0] - values[1]) < 0.01 && Math.abs(values[0] - values[2]) < 0.3, values);
    await finished(page);
  });

  for (const [mode, verify] of Object.entries({
    "All tasks": async (page) => assert.equal(await page.locator(".heat").count(), 6),
    Search: async (page) => assert.match(await page.locator(".ranked li").first().textContent(), /Abfahrt/),
    Tokens: async (page) => {
      assert.equal(await page.locator(".pieces").count(), 3);
      assert.ok((await page.locator(".pieces").first().locator(".instruction").count()) > 2);
      assert.equal(await page.locator(".pieces").first().locator(".special").count(), 2);
    },
    "Late chunking": async (page) => {
      assert.equal(await page.locator(".chunks tbody tr").count(), 4);
      assert.match(await page.locator(".chunks").textContent(), /3\.9 million/);
    },
    Map: async (page) => {
      assert.equal(await page.locator(".map circle").count(), 12);
      await page.locator(".map circle").first().focus();
      assert.match(await page.locator(".map-text").textContent(), /weather/);
    },
  })) {
    for (const width of WIDTHS) {
      await check(`playground: ${mode} at ${width}`, async () => {
        const page = await opened(browser, server, "/playground", { viewport: { width, height: 900 } });
        await page.getByRole("tab", { name: mode }).click();
        await run(page);
        await verify(page);
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than the screen");
        await shoot(page, `playground-${mode.toLowerCase().replaceAll(" ", "-")}-${width}`);
        await accessible(page);
        await finished(page);
      });
    }
  }

  await check("playground: a run can be stopped", async () => {
    const page = await opened(browser, server, "/playground");
    await page.getByRole("tab", { name: "Map" }).click();
    await page.fill("#map-texts", Array.from({ length: 300 }, (_, i) => `text ${i} ${"of some length ".repeat(20)}`).join("\n"));
    await page.click("#run");
    await page.waitForFunction(() => document.getElementById("progress").value > 0);
    await page.click("#stop");
    await page.waitForFunction(() => document.getElementById("receipt").textContent === "Stopped.");
    assert.ok(await page.locator("#run").isEnabled());
    await finished(page);
  });

  await check("playground: empty and wrong inputs say so", async () => {
    const page = await opened(browser, server, "/playground");
    for (let rows = 3; rows > 0; rows--) await page.getByRole("button", { name: "Remove this text" }).first().click();
    await run(page);
    assert.equal(await page.locator("#problem").textContent(), "There is no text yet.");
    await page.click("#add");
    await page.getByRole("textbox", { name: "Text 1" }).fill("word ".repeat(9000));
    await run(page);
    assert.match(await page.locator("#problem").textContent(), /maximum context length/);
    page.faults = page.faults.filter((fault) => !fault.includes("400"));
    await finished(page);
  });

  await check("playground: a shared link keeps its texts from the server", async () => {
    const page = await opened(browser, server, "/playground", { permissions: ["clipboard-read", "clipboard-write"] });
    await page.getByRole("textbox", { name: "Text 1" }).fill("a secret stork 🐦");
    await page.getByRole("tab", { name: "All tasks" }).click();
    await page.click("#share");
    await page.waitForFunction(() => document.getElementById("shared").textContent === "Copied.");
    const link = await page.evaluate(() => navigator.clipboard.readText());
    await finished(page);
    const asked = [];
    const other = await browser.newPage();
    other.on("request", (request) => asked.push(request.url().split("#")[0]));
    await other.goto(link, { waitUntil: "networkidle" });
    assert.equal(await other.getByRole("textbox", { name: "Text 1" }).inputValue(), "a secret stork 🐦");
    assert.equal(await other.locator("[aria-selected=true]").first().textContent(), "All tasks");
    assert.ok(asked.every((url) => !url.includes("?") && !url.includes("eyJ")), asked);
    assert.ok(!server.log.includes("secret"), "the log has a text");
    await other.close();
  });

  for (const width of WIDTHS) {
    for (const colorScheme of ["light", "dark"]) {
      await check(`quality: the sample in one click at ${width}, ${colorScheme}`, async () => {
        const page = await opened(browser, server, "/quality", { viewport: { width, height: 900 }, colorScheme });
        await page.click("#try");
        await measured(page);
        assert.match(await page.locator("#receipt").textContent(), /^mini answered in exact · 44 documents, 36 queries · [\d,]+ tokens · [\d,]+ ms · fp_/);
        assert.equal(await page.locator(".settings-table tbody tr").count(), 12);
        assert.equal(await page.locator("#chart [role=img] title").count(), 12);
        assert.ok(await page.locator("#found").isVisible());
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than the screen");
        await shoot(page, `quality-sample-${width}-${colorScheme}`);
        const findings = await accessible(page);
        await finished(page);
        return `${findings} findings of axe that are not serious`;
      });
    }
  }

  await check("quality: the dial recommends what the server does, by keyboard too", async () => {
    const page = await opened(browser, server, "/quality");
    await page.click("#try");
    await measured(page);
    const collection = await page.inputValue("#collection");
    const chosen = () => page.locator(".choice").textContent();
    for (const keep of [98, 90, 75, 50, 100]) {
      await page.locator("#keep").evaluate((it, keep) => ((it.value = keep), it.dispatchEvent(new Event("input", { bubbles: true }))), keep);
      const answer = await (await fetch(`${server.url}/v1/quality`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ collection, keep: keep / 100 }) })).json();
      const { dimensions, embedding_type: type } = answer.measurements[answer.recommended];
      assert.equal(await chosen(), `${dimensions} dimensions, ${type}`, `keep ${keep}`);
    }
    const before = await chosen();
    await page.focus("#keep");
    await page.keyboard.press("Home");
    assert.equal(await page.locator("#kept").textContent(), "50 %");
    assert.notEqual(await chosen(), before);
    assert.equal(await page.locator(".settings-table .chosen").count(), 1);
    await finished(page);
  });

  await check("quality: storage and prices, code and download", async () => {
    const page = await opened(browser, server, "/quality");
    await page.click("#try");
    await measured(page);
    await page.locator("#keep").evaluate((it) => ((it.value = 100), it.dispatchEvent(new Event("input", { bubbles: true }))));
    await page.fill("#documents", "2000000");
    assert.equal(await page.getByRole("columnheader", { name: "A month" }).count(), 0);
    await page.fill("#storage", "0.5");
    const row = await page.locator(".settings-table tbody tr").nth(3).locator("td").allTextContents();
    assert.deepEqual([row[0], row[1], row[5], row[6]], ["256", "1,024", "2.05 GB", "$1.02"], row);
    assert.match(await page.locator("#costs").textContent(), /Embedding[\d,]+ tokens once, not charged here/);
    await page.locator("#as-code summary").click();
    const answer = JSON.parse(shell(await page.locator("#code").evaluate((it) => it.textContent)));
    const [dimensions, type] = (await page.locator(".choice").textContent()).split(" dimensions, ");
    assert.equal(answer.data[0].embedding.length, type === "binary" ? dimensions / 8 : Number(dimensions));
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
    const lines = readFileSync(await download.path(), "utf8").trim().split("\n");
    assert.equal(lines.length, 13);
    assert.match(lines[4], /^64,float,256,0\.\d+,0\.\d+,-?0\.\d+,0\.\d+$/);
    await page.fill("#documents", "");
    assert.equal(await page.locator("#costs").textContent(), "");
    await finished(page);
  });

  await check("quality: a file, and what is wrong with it", async () => {
    const page = await opened(browser, server, "/quality");
    const file = (name, bytes) => page.setInputFiles("#file", { name, mimeType: "text/plain", buffer: Buffer.from(bytes) });
    await dialled(page);
    assert.match(await page.locator("#problem").textContent(), /^There is no collection yet/);
    await file("pairs.csv", "document;query\r\nStorks winter in Africa.;Where do storks go?\r\nThe bank raised rates.;interest\r\n");
    await dialled(page);
    assert.match(await page.locator("#receipt").textContent(), /2 documents, 2 queries/);
    assert.match(await page.locator("#advice").textContent(), /2 queries tell little: bring more\.Recall over 10 places is always 100 % with 2 documents/);
    await accessible(page);
    const text = await page.inputValue("#collection");
    await file("latin.csv", [0x61, 0xe9, 0x0a]);
    await page.waitForFunction(() => !document.getElementById("problem").hidden);
    assert.match(await page.locator("#problem").textContent(), /not UTF-8/);
    assert.equal(await page.inputValue("#collection"), text);
    for (const [collection, words] of [
      ["text,label\na,b", /^The first line is "text,label", expected .*; the simplest collection is CSV/],
      ["query,document\na,A\n,\n", /^Line 3 has neither/],
      ['{"query": "a", "document": "A"}\n{"query"', /at line 2 column/],
      ["id,document,query,relevant\n1,A,,\n2,B,,\n,,q,3", /^Line 4 names the document `3`/],
      [`query,document\na,A\nb,${"word ".repeat(9000)}`, /^Line 3: This model's maximum context length/],
      [`query,document\n${Array.from({ length: 1100 }, (_, i) => `q${i},d${i}`).join("\n")}`, /2200 documents and queries, expected at most 2048/],
    ]) {
      await page.fill("#collection", collection);
      await dialled(page);
      assert.match(await page.locator("#problem").textContent(), words);
      assert.ok(!(await page.locator("#result").isVisible()), "what stands there is of another collection");
    }
    await accessible(page);
    await shoot(page, "quality-problem");
    await page.fill("#collection", `query,document\na,A\nb,${"word ".repeat(9000)}`);
    await page.selectOption("#truncate", "END");
    await dialled(page);
    assert.equal(await page.locator("#problem").isVisible(), false);
    page.faults = page.faults.filter((fault) => !fault.includes("400"));
    await finished(page);
  });

  for (const width of WIDTHS) {
    await check(`quality: a BEIR folder at ${width}, and what is wrong with it`, async () => {
      const folder = join(work, `scifact-${width}`);
      const write = (name, lines) => writeFileSync(join(folder, name), lines.join("\n"));
      mkdirSync(join(folder, "qrels"), { recursive: true });
      const page = await opened(browser, server, "/quality", { viewport: { width, height: 900 } });
      const choose = () => page.setInputFiles("#beir", folder);
      const documents = [{ _id: "d1", title: "Storks", text: "winter in Africa." }, { _id: "d2", title: "", text: "The bank raised rates." }, { _id: "d3", text: "" }];
      const corpus = (more = []) => write("corpus.jsonl", [...documents, ...more].map((line) => JSON.stringify(line)));
      corpus();
      await choose();
      assert.match(await page.locator("#problem").textContent(), /The folder scifact-\d+ has no queries\.jsonl/);
      write("queries.jsonl", [{ _id: "q1", text: "Where do storks go?" }, { _id: "q2", text: HOSTILE }].map((line) => JSON.stringify(line)));
      await choose();
      assert.match(await page.locator("#problem").textContent(), /has no qrels\/test\.tsv/);
      write("qrels/dev.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q2\td9\t1"]);
      write("qrels/test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q2\td2\t2", "q2\td3\t1"]);
      await page.fill("#collection", "what was there before");
      await choose();
      assert.equal(await page.locator("#problem").isVisible(), false);
      assert.equal(await page.locator("#collection").isVisible(), false);
      assert.equal(await page.inputValue("#split"), "qrels/test.tsv");
      await dialled(page);
      assert.match(await page.locator("#receipt").textContent(), /2 documents, 2 queries .*1 without a text left out/);
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than the screen");
      await shoot(page, `quality-beir-${width}`);
      await accessible(page);
      await page.selectOption("#split", "qrels/dev.tsv");
      await dialled(page);
      assert.match(await page.locator("#problem").textContent(), /^Line 3 of `qrels\/dev\.tsv` names `d9`, which is not in `corpus\.jsonl`/);
      await page.selectOption("#split", "qrels/test.tsv");
      corpus([{ _id: "d4", text: "word ".repeat(9000) }]);
      await choose();
      await dialled(page);
      assert.match(await page.locator("#problem").textContent(), /^Line 4 of corpus\.jsonl: This model's maximum context length/);
      corpus([{ text: "no id" }]);
      await choose();
      await dialled(page);
      assert.match(await page.locator("#problem").textContent(), /^`corpus\.jsonl` is not JSONL as expected: missing field `_id` at line 4/);
      await accessible(page);
      assert.equal(await page.locator("#quality img, #quality script").count(), 0);
      await page.click("#leave");
      assert.equal(await page.inputValue("#collection"), "what was there before");
      page.faults = page.faults.filter((fault) => !fault.includes("400"));
      await finished(page);
    });
  }

  await check("quality: a run can be stopped", async () => {
    const page = await opened(browser, server, "/quality");
    await page.fill("#collection", `query,document\n${Array.from({ length: 500 }, (_, i) => `q${i},${i} ${"of some length ".repeat(40)}`).join("\n")}`);
    await page.click("#run");
    await page.locator("#stop").waitFor();
    await page.click("#stop");
    await page.waitForFunction(() => document.getElementById("receipt").textContent === "Stopped.");
    assert.ok(await page.locator("#run").isEnabled());
    await finished(page);
  });

  await check("what people write is text and nothing else", async () => {
    const page = await opened(browser, server, "/playground");
    const fields = { "#query": HOSTILE, "#passages": HOSTILE, "#chunk-query": HOSTILE, "#document": `${HOSTILE} a. b.`, "#map-texts": `${HOSTILE}\na\nb` };
    await page.getByRole("textbox", { name: "Text 1" }).fill(HOSTILE);
    for (const [field, text] of Object.entries(fields)) await page.locator(field).evaluate((it, text) => (it.value = text), text);
    for (const mode of ["Similarity", "All tasks", "Search", "Tokens", "Late chunking", "Map"]) {
      await page.getByRole("tab", { name: mode }).click();
      await run(page);
      assert.equal(await page.locator("#problem").isVisible(), false, mode);
      assert.equal(await page.locator("#result img, #result script").count(), 0, mode);
    }
    await page.goto(`${server.url}/quality`);
    for (const collection of [
      [{ query: HOSTILE, document: HOSTILE }, { query: "a", document: `${HOSTILE} a` }].map((line) => JSON.stringify(line)).join("\n"),
      HOSTILE,
      JSON.stringify({ query: "a", relevant: [HOSTILE] }),
    ]) {
      await page.fill("#collection", collection);
      await dialled(page);
      assert.equal(await page.locator("#quality img, #quality script").count(), 0);
    }
    const forged = Buffer.from(JSON.stringify({ mode: "constructor", rows: [{ text: HOSTILE, task: HOSTILE }], dimensions: HOSTILE, mapTask: HOSTILE })).toString("base64url");
    await page.goto(`${server.url}/playground#${forged}`);
    await page.goto(`${server.url}/playground#not-base64!`);
    for (const path of [`/compare?models=${encodeURIComponent(HOSTILE)}`, `/models/${encodeURIComponent(HOSTILE)}/x`, `/?${encodeURIComponent(HOSTILE)}`]) {
      await page.goto(server.url + path);
    }
    page.faults = page.faults.filter((fault) => !/40[04]/.test(fault));
    await finished(page);
  });

  await check("an operator's catalogue is text too, with prices and a key", async () => {
    const folder = join(work, "catalogue");
    mkdirSync(folder);
    const quoted = JSON.stringify(HOSTILE);
    writeFileSync(join(folder, "mini.toml"), `id = "quintet/mini"
name = ${quoted}
provider = ${quoted}
line = ${quoted}
about = ${quoted}
capabilities = [${quoted}]
efficiency = [${quoted}]
best_for = [${quoted}]
not_for = [${quoted}]
faq = [{ question = ${quoted}, answer = ${quoted} }]
links = [{ title = ${quoted}, url = ${JSON.stringify("https://example.org/\"><script>window.hacked=1</script>")} }]
benchmarks = [{ name = ${quoted}, metric = ${quoted}, scores = [{ label = ${quoted}, value = 50.0 }], source = ${quoted}, date = "2026", note = ${quoted} }]
tasks = [{ name = ${quoted}, when = ${quoted}, instruction = ${quoted} }]
[architecture]
family = ${quoted}
pooling = ${quoted}
positions = ${quoted}
[languages]
best = [${quoted}]
[license]
id = ${quoted}
name = ${quoted}
summary = ${quoted}
[price]
realtime_micro_usd_per_million = 20_000
batch_micro_usd_per_million = 10_000
`);
    const key = join(work, "key");
    writeFileSync(key, "sesame");
    const keyed = await serve("--catalogue", folder, "--api-key-file", key);
    for (const path of ["/", "/models/quintet/mini", "/compare?models=quintet/mini,BAAI/bge-m3", "/playground", "/quality"]) {
      const page = await opened(browser, keyed, path);
      assert.equal(await page.locator("main img, main script").count(), 0, path);
      await finished(page);
    }
    const page = await opened(browser, keyed, "/models/quintet/mini");
    assert.match(await page.locator(".offer").textContent(), /\$0\.02 per million tokens.*\$0\.01/s);
    await page.goto(`${keyed.url}/playground`);
    await run(page);
    assert.match(await page.locator("#problem").textContent(), /API key/);
    await page.fill("#key", "sesame");
    await run(page);
    assert.match(await page.locator("#receipt").textContent(), / · \$0\.0\d* · fp_/);
    await page.goto(`${keyed.url}/quality`);
    await page.click("#try");
    await measured(page);
    assert.match(await page.locator("#problem").textContent(), /API key/);
    await page.fill("#key", "sesame");
    await dialled(page);
    assert.match(await page.locator("#receipt").textContent(), / · \$0\.0\d* · fp_/);
    // 2,593 tokens of 44 documents and 36 queries; a million documents at $0.02 a million tokens.
    assert.match(await page.locator("#costs").textContent(), /Embedding3\d,\d{3},\d{3} tokens once, \$0\.\d\d/);
    page.faults = page.faults.filter((fault) => !fault.includes("401"));
    await finished(page);
  });
}

/** Every page of a list: wide, narrow, in the dark and without scripts. */
async function checkPages(server, pages, storageState) {
  for (const [name, path] of Object.entries(pages)) {
    for (const width of WIDTHS) {
      await check(`${name} at ${width}`, async () => {
        const page = await opened(browser, server, path, { viewport: { width, height: 900 }, storageState });
        assert.equal(page.answer.status(), 200);
        assert.equal(new URL(page.url()).pathname, path.split("?")[0]);
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than the screen");
        assert.ok(page.bytes < KILOBYTES * 1024, `${page.bytes} bytes`);
        assert.equal(page.answer.headers()["cache-control"], "no-store");
        await shoot(page, `${name}-${width}`);
        const words = `${(page.bytes / 1024).toFixed(1)} KB, loaded after ${page.loaded.toFixed(0)} ms`;
        const findings = await accessible(page);
        await finished(page);
        return `${words}, ${findings} findings of axe that are not serious`;
      });
    }
    await check(`${name} in the dark`, async () => {
      const page = await opened(browser, server, path, { colorScheme: "dark", storageState });
      await shoot(page, `${name}-dark`);
      await accessible(page);
      await finished(page);
    });
    await check(`${name} without scripts`, async () => {
      const page = await opened(browser, server, path, { javaScriptEnabled: false, storageState });
      assert.ok(await page.locator("h1").isVisible());
      await page.context().close();
    });
  }
}

/** Takes what the browser itself says about an answer of this status out of what counts. */
function expected(page, status) {
  page.faults = page.faults.filter((fault) => !fault.includes(String(status)));
}

async function checkHosted(server) {
  const customer = await signedIn(server, server.key);
  const operator = await signedIn(server, server.admin);
  await checkPages(server, DOOR);
  await checkPages(server, ACCOUNT, customer);
  const keyId = server.key.split("-").at(-2);
  await checkPages(server, { "account-key": `/account/keys/${keyId}` }, customer);
  await checkPages(server, { ...ADMIN, "admin-account": `/admin/accounts/${server.account}` }, operator);

  await check("the door: a wrong key, the right one, sign out", async () => {
    const page = await opened(browser, server, "/account/keys");
    assert.match(page.url(), /\/sign-in\?next=/);
    await page.getByLabel("API key").fill("qt-wrong-key");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("alert").waitFor();
    assert.match(await page.getByRole("alert").textContent(), /Incorrect API key/);
    await shoot(page, "sign-in-wrong");
    await accessible(page);
    await page.getByLabel("API key").fill(server.key);
    await page.keyboard.press("Enter");
    await page.waitForURL(/account\/keys/);
    const [cookie] = (await page.context().cookies()).filter((it) => it.name === "quintet-session");
    assert.ok(cookie.httpOnly && cookie.sameSite === "Strict");
    assert.equal(await page.evaluate(() => document.cookie), "", "no script sees a cookie");
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.waitForURL(/sign-in/);
    await page.goto(`${server.url}/account/overview`);
    assert.match(page.url(), /sign-in/);
    expected(page, 401);
    await finished(page);
    assert.ok(!server.log.includes(server.key.split("-").at(-1)), "the log has a key");
  });

  await check("sign up: the key is shown once, copied, and works", async () => {
    const page = await opened(browser, server, "/sign-up", { permissions: ["clipboard-read", "clipboard-write"], viewport: { width: 390, height: 900 } });
    await page.getByLabel("Name of the account").fill("Heron & Sons");
    await page.getByRole("button", { name: "Open the account" }).click();
    await page.getByRole("heading", { name: "Heron & Sons" }).waitFor();
    await shoot(page, "signed-up-390");
    await accessible(page);
    const shown = await page.locator(".new-key code").textContent();
    await page.locator(".new-key [data-copy]").click();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), shown);
    await page.getByRole("link", { name: "Go to the account" }).click();
    await page.getByText("Nothing was billed in these days.").waitFor();
    assert.match(await page.locator(".balance").textContent(), /\$0\.25/);
    assert.match(await page.locator(".credits").textContent(), /free credit/);
    await shoot(page, "account-empty-390");
    await accessible(page);
    const answer = await fetch(`${server.url}/account`, { headers: { authorization: `Bearer ${shown}` } });
    assert.equal(answer.status, 200);
    await page.goto(`${server.url}/account/ledger`);
    await page.getByText("free credit").waitFor();
    await finished(page);
  });

  await check("usage: days and measures are chosen, the table tells the same", async () => {
    const page = await opened(browser, server, "/account/overview", { storageState: customer });
    await page.getByRole("link", { name: "7 days" }).click();
    await page.getByRole("link", { name: "requests" }).click();
    assert.match(page.url(), /days=7&show=requests/);
    assert.equal(await page.locator(".chart").first().locator("rect").count(), 7);
    assert.match(await page.locator(".chart").nth(2).locator("svg").getAttribute("aria-label"), /retrieval\.query/);
    await page.getByText("By day, as a table").click();
    assert.ok(await page.locator(".figures-table").isVisible());
    await finished(page);
  });

  for (const width of WIDTHS) {
    await check(`keys at ${width}: made, shown once, bounded, renewed, revoked`, async () => {
      const page = await opened(browser, server, "/account/keys", { storageState: customer, viewport: { width, height: 900 } });
      await page.getByLabel("Name", { exact: true }).fill("shop");
      await page.getByLabel("Dollars a month").fill("lots");
      await page.getByRole("button", { name: "Make the key" }).click();
      assert.match(await page.getByRole("alert").textContent(), /`lots` is no amount/);
      assert.equal(await page.getByLabel("Name", { exact: true }).inputValue(), "shop");
      await page.getByLabel("Dollars a month").fill("2.50");
      await page.getByLabel("Requests a minute").fill("60");
      await page.getByLabel("Task where a request names none").selectOption("retrieval.query");
      await page.getByLabel("retrieval.query", { exact: true }).check();
      await page.getByRole("button", { name: "Make the key" }).click();
      await page.locator(".new-key").waitFor();
      await shoot(page, `account-key-made-${width}`);
      await accessible(page);
      const made = await page.locator(".new-key code").textContent();
      await page.goto(`${server.url}/account/keys`);
      assert.ok(!(await page.content()).includes(made.split("-").at(-1)), "shown once");
      await page.getByRole("link", { name: "shop" }).first().click();
      await page.getByLabel("Name", { exact: true }).fill("shop window");
      await page.getByLabel("Requests a minute").fill("");
      await page.getByRole("button", { name: "Save" }).click();
      await page.getByRole("heading", { name: "shop window" }).waitFor();
      await page.getByText("Give it a new secret").click();
      await page.getByRole("button", { name: "Make a new secret" }).click();
      const renewed = await page.locator(".new-key code").textContent();
      assert.notEqual(renewed, made);
      await page.getByText("Revoke it", { exact: true }).click();
      await page.getByRole("button", { name: "Revoke the key" }).click();
      await page.waitForURL(/account\/keys$/);
      assert.match(await page.locator("tr", { hasText: "shop window" }).first().textContent(), /revoked/);
      const answer = await fetch(`${server.url}/account`, { headers: { authorization: `Bearer ${renewed}` } });
      assert.equal(answer.status, 401);
      expected(page, 400);
      await finished(page);
    });
  }

  await check("a key that may only look is offered nothing else", async () => {
    const looking = await signedIn(server, server.looking);
    const page = await opened(browser, server, "/account/keys", { storageState: looking });
    assert.equal(await page.getByRole("button", { name: "Make the key" }).count(), 0);
    await page.goto(`${server.url}/admin/live`);
    assert.match(await page.locator("main").textContent(), /lacks the scope `admin`/);
    await accessible(page);
    expected(page, 403);
    await finished(page);
  });

  await check("the ledger: pages, and the download", async () => {
    const page = await opened(browser, server, "/account/ledger", { storageState: customer });
    assert.equal(await page.locator(".ledger tbody tr").count(), 50);
    // 60 requests, 117 lines of a batch that were answered, and the credit.
    for (const before of [128, 78, 28]) {
      await page.getByRole("link", { name: "Older" }).click();
      await page.getByText(`no. ${before}`, { exact: true }).waitFor();
    }
    await page.getByText("invoice 117").waitFor();
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download as CSV" }).click()]);
    const lines = readFileSync(await download.path(), "utf8").trim().split("\r\n");
    assert.equal(lines.length, 1 + 1 + 60 + 117);
    assert.match(lines[2], /,usage,-0\.\d+,.*,mini,(batch|realtime),req-/);
    await finished(page);
    return `${lines.length} lines`;
  });

  for (const width of WIDTHS) {
    await check(`batches at ${width}: progress by itself, cancelled by the account and by the operator`, async () => {
      const view = { viewport: { width, height: 900 } };
      const ids = [];
      for (let count = 0; count < 2; count++) ids.push(await leave(server, server.key, manyLines(), { [HOSTILE.slice(0, 60)]: HOSTILE }));
      const page = await opened(browser, server, "/account/batches", { storageState: customer, ...view }, "load");
      const row = (page, id) => page.locator("tr", { hasText: id });
      assert.match(await row(page, ids[0]).textContent(), /<img src=x/);
      assert.equal(await page.locator("main img, main script").count(), 0);
      await page.waitForFunction((id) => [...document.querySelectorAll("tr")].some((row) => row.textContent.includes(id) && /[1-9][\d,]* of 30,000 lines/.test(row.textContent)), ids[0], { timeout: 60_000 });
      const scrolled = await page.locator(".wide").evaluate((it) => ((it.scrollLeft = 90), it.scrollLeft));
      await page.locator(".wide").focus();
      const met = () => row(page, ids[0]).locator(".progress").textContent();
      const before = await met();
      await page.waitForFunction(([id, before]) => [...document.querySelectorAll("tr")].some((row) => row.textContent.includes(id) && row.querySelector(".progress").textContent !== before), [ids[0], before], { timeout: 60_000 });
      assert.equal(await page.locator(".wide").evaluate((it) => it.scrollLeft), scrolled, "whoever scrolled stays there");
      assert.equal(await page.evaluate(() => document.activeElement.className), "wide", "whoever was there by keyboard stays there");
      await shoot(page, `account-batches-running-${width}`);
      await accessible(page);
      await row(page, ids[0]).getByText("Cancel", { exact: true }).click();
      // What is open is not taken away.
      await page.waitForTimeout(3000);
      await row(page, ids[0]).getByRole("button", { name: "Run no more lines" }).click();
      await row(page, ids[0]).getByText(/cancelling|cancelled/).waitFor();
      const other = await opened(browser, server, "/admin/batches?show=open", { storageState: operator, ...view }, "load");
      await shoot(other, `admin-batches-running-${width}`);
      assert.equal(await other.locator("main img, main script").count(), 0);
      assert.equal(await other.locator("a[href^='/account/files']").count(), 0, "texts are the account's");
      await row(other, ids[1]).getByText("Cancel", { exact: true }).click();
      await row(other, ids[1]).getByRole("button", { name: "Run no more lines" }).click();
      await other.waitForURL(/admin\/batches$/);
      for (const id of ids) assert.equal((await batchEnded(server, server.key, id)).status, "cancelled");
      await other.goto(`${server.url}/admin/audit`);
      const trail = await other.locator(".audit").textContent();
      for (const id of ids) assert.ok(trail.includes(id), `${id} is not in the trail`);
      assert.ok(trail.includes("batches.cancel"));
      assert.equal(await other.locator("main img, main script").count(), 0);
      await finished(other);
      await finished(page);
    });
  }

  await check("batches: files are loaded, errors told, an ended one is not cancelled, and none yet", async () => {
    const page = await opened(browser, server, "/account/batches", { storageState: customer, permissions: ["clipboard-read"] }, "load");
    const row = page.locator("tr", { hasText: "job: nightly" });
    assert.match(await row.textContent(), /completed.*120 of 120 lines3 failed/s);
    const [download] = await Promise.all([page.waitForEvent("download"), row.getByRole("link", { name: "output" }).click()]);
    const lines = readFileSync(await download.path(), "utf8").trim().split("\n");
    assert.equal(lines.length, 117);
    assert.match(download.suggestedFilename(), /^file-\w+\.jsonl$/);
    const [errors] = await Promise.all([page.waitForEvent("download"), row.getByRole("link", { name: "errors" }).click()]);
    assert.equal(readFileSync(await errors.path(), "utf8").trim().split("\n").length, 3);
    const failed = page.locator("tr", { hasText: "failed" }).filter({ hasText: "What is wrong" });
    await failed.getByText("What is wrong").click();
    assert.match(await failed.textContent(), /Line 2: /);
    await shoot(page, "account-batches-wrong");
    await accessible(page);
    // A form that was open while the batch ended.
    const id = await row.locator("th code").textContent();
    await page.evaluate((id) => {
      const form = document.querySelector("form[action='/sign-out']").cloneNode(true);
      form.action = `/account/batches/${id}/cancel`;
      document.querySelector("main").append(form);
      form.querySelector("button").click();
    }, id);
    await page.getByRole("alert").waitFor();
    assert.match(await page.getByRole("alert").textContent(), /completed/);
    await accessible(page);
    await page.getByRole("link", { name: "Not ended" }).click();
    await page.getByText("No batch runs or waits.").waitFor();
    await accessible(page);
    expected(page, 409);
    await finished(page);
    const other = await opened(browser, server, "/account/batches", { storageState: operator, viewport: { width: 390, height: 900 } });
    await other.getByText("No batches yet.").waitFor();
    await shoot(other, "account-batches-empty-390");
    await accessible(other);
    await finished(other);
  });

  await check("the operator: an account opened, credited, closed; the trail", async () => {
    const page = await opened(browser, server, "/admin/accounts", { storageState: operator });
    await page.getByLabel("Name", { exact: true }).fill("Crane GmbH");
    await page.getByLabel("Credit in dollars").fill("5");
    await page.getByRole("button", { name: "Open the account" }).click();
    await page.getByRole("heading", { name: "Crane GmbH" }).waitFor();
    await page.getByLabel("Dollars", { exact: true }).fill("2.5");
    await page.getByLabel("For", { exact: true }).fill("a second bill");
    await page.getByRole("button", { name: "Grant" }).click();
    await page.getByText("a second bill").waitFor();
    assert.match(await page.locator(".balance").textContent(), /\$7\.50/);
    await page.locator("form[action$='/keys']").getByLabel("Name", { exact: true }).fill("for the customer");
    await page.getByRole("button", { name: "Make the key" }).click();
    await page.locator(".new-key").waitFor();
    await page.locator("tr", { hasText: "for the customer" }).getByText("Revoke").click();
    await page.getByRole("button", { name: "For good" }).click();
    await page.locator("tr", { hasText: "revoked" }).waitFor();
    await page.getByRole("button", { name: "Close the account" }).click();
    await page.getByRole("button", { name: "Open the account again" }).waitFor();
    await page.goto(`${server.url}/admin/audit`);
    const trail = await page.locator(".audit").textContent();
    for (const action of ["accounts.create", "credit.grant", "keys.revoke", "accounts.close"]) assert.ok(trail.includes(action), action);
    await finished(page);
  });

  await check("live: it moves by itself, and stands still when told to", async () => {
    const page = await opened(browser, server, "/admin/live", { storageState: operator });
    // Any of its numbers: that of the requests which it times stands still once it is at its most.
    const shown = () => page.locator("#live").textContent();
    const before = await shown();
    const embed = (input) =>
      fetch(`${server.url}/v1/embeddings`, { method: "POST", headers: { authorization: `Bearer ${server.key}`, "content-type": "application/json" }, body: JSON.stringify({ input }) });
    await embed("A request while somebody looks.");
    await page.waitForFunction((before) => document.getElementById("live").textContent !== before, before, { timeout: 20_000 });
    await page.getByRole("button", { name: "Pause" }).click();
    // One that was under way is let through.
    await page.waitForTimeout(1500);
    const paused = await shown();
    await embed("Another one, unseen.");
    await page.waitForTimeout(3000);
    assert.equal(await shown(), paused);
    await page.context().clearCookies();
    await page.getByRole("button", { name: "Go on" }).click();
    await page.waitForURL(/sign-in/, { timeout: 20_000 });
    await finished(page);
  });

  await check("accounts: what people write is text and nothing else", async () => {
    const page = await opened(browser, server, "/sign-up");
    await page.getByLabel("Name of the account").fill(HOSTILE);
    await page.getByRole("button", { name: "Open the account" }).click();
    await page.getByRole("heading", { name: HOSTILE }).waitFor();
    await page.goto(`${server.url}/account/keys`);
    await page.getByLabel("Name", { exact: true }).fill(HOSTILE);
    await page.getByRole("button", { name: "Make the key" }).click();
    await page.locator(".new-key").waitFor();
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than the screen");
    const made = await page.locator(".new-key code").textContent();
    await fetch(`${server.url}/v1/embeddings`, { method: "POST", headers: { authorization: `Bearer ${made}`, "content-type": "application/json" }, body: JSON.stringify({ input: HOSTILE }) });
    for (const path of ["/account/overview", "/account/ledger", "/account/keys"]) {
      await page.goto(server.url + path);
      assert.equal(await page.locator("main img, main script").count(), 0, path);
      assert.ok((await page.locator("main").textContent()).includes("<img src=x"), path);
    }
    await page.goto(`${server.url}/sign-in?next=${encodeURIComponent(HOSTILE)}`);
    assert.equal(await page.locator("[name=next]").inputValue(), "/account/overview");
    await finished(page);
    const other = await opened(browser, server, "/admin/accounts", { storageState: operator });
    await other.getByRole("link", { name: HOSTILE }).first().click();
    await other.getByRole("heading", { name: HOSTILE }).waitFor();
    await other.getByLabel("Dollars", { exact: true }).fill(HOSTILE.slice(0, 20));
    await other.getByLabel("For", { exact: true }).fill(HOSTILE);
    await other.getByRole("button", { name: "Grant" }).click();
    await other.getByRole("alert").waitFor();
    await other.getByLabel("Dollars", { exact: true }).fill("1");
    await other.getByLabel("For", { exact: true }).fill(HOSTILE);
    await other.getByRole("button", { name: "Grant" }).click();
    await other.locator(".credits", { hasText: "onerror" }).waitFor();
    for (const path of ["/admin/live", "/admin/accounts", "/admin/audit"]) {
      await other.goto(server.url + path);
      assert.equal(await other.locator("main img, main script").count(), 0, path);
      assert.ok((await other.locator("main").textContent()).includes("<img src=x"), path);
    }
    expected(other, 400);
    await finished(other);
  });

  await check("a server without accounts says so", async () => {
    const open = await serve();
    const page = await opened(browser, open, "/sign-in");
    assert.equal(page.answer.status(), 404);
    assert.match(await page.locator("main").textContent(), /keeps no accounts/);
    await accessible(page);
    expected(page, 404);
    await finished(page);
  });
}

function shell(text) {
  return execFileSync("bash", ["-c", text], { encoding: "utf8", env: environment, stdio: ["ignore", "pipe", "ignore"] });
}

function javascript(text) {
  const file = join(work, "program.mjs");
  writeFileSync(file, text);
  return execFileSync("node", [file], { encoding: "utf8", env: environment });
}

function python(text) {
  const file = join(work, "program.py");
  writeFileSync(file, text);
  return execFileSync(values.python, [file], { encoding: "utf8", env: environment });
}

/** Built in one folder, so that its dependencies are built once. */
function rust(text) {
  const folder = join(process.cwd(), "rust");
  mkdirSync(join(folder, "src"), { recursive: true });
  writeFileSync(join(folder, "src/main.rs"), text);
  const manifest = `[package]\nname = "quick-start"\nedition = "2024"\n[dependencies]\nserde_json = "1"\nureq = { version = "3", default-features = false, features = ["json"] }\n[workspace]\n`;
  writeFileSync(join(folder, "Cargo.toml"), manifest);
  // Cargo may need the proxy; the program must not ask it.
  execFileSync("cargo", ["build", "--quiet"], { cwd: folder, env: { ...process.env, CARGO_TARGET_DIR: join(folder, "target") } });
  return execFileSync(join(folder, "target/debug/quick-start"), { encoding: "utf8", env: environment });
}
