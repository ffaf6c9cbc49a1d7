/** The playground: its fields, its runs, and links that carry both. */
import { Problem } from "./api.js";
import { code } from "./code.js";
import { copyButtons, copyText } from "./copy.js";
import { element } from "./draw.js";
import { example, modes } from "./modes.js";
import { tabs } from "./tabs.js";

const byId = (id) => document.getElementById(id);
const { model, full, price, origin, tasks: names } = byId("playground").dataset;
const tasks = names.split(" ");
/** A task by name where the model has it. */
const task = (name) => (tasks.includes(name) ? name : "raw");

/** Fields of the page by their names in the state. */
const FIELDS = { query: "query", passages: "passages", chunkQuery: "chunk-query", document: "document", sentences: "sentences", mapTexts: "map-texts", mapTask: "map-task", dimensions: "dimensions", type: "type" };

let mode = "matrix";
let running;
let last;

function addRow({ text, task: chosen }) {
  const area = element("textarea", { rows: 1, "aria-label": "Text" });
  area.value = text;
  const select = element("select", { "aria-label": "Task" }, ...tasks.map((name) => element("option", {}, name)));
  select.value = task(chosen);
  const remove = element("button", { type: "button", class: "quiet", "aria-label": "Remove this text" }, "Remove");
  const row = element("li", {}, element("span", { class: "at", "aria-hidden": "true" }), area, select, remove);
  remove.addEventListener("click", () => {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    number();
    (next?.querySelector("textarea") ?? byId("add")).focus();
  });
  byId("rows").append(row);
  number();
  return area;
}

function number() {
  [...byId("rows").children].forEach((row, index) => {
    row.querySelector(".at").textContent = index + 1;
    row.querySelector("textarea").setAttribute("aria-label", `Text ${index + 1}`);
    row.querySelector("select").setAttribute("aria-label", `Task of text ${index + 1}`);
  });
}

function state() {
  const rows = [...byId("rows").children].map((row) => ({ text: row.querySelector("textarea").value, task: row.querySelector("select").value }));
  const fields = Object.entries(FIELDS).map(([name, id]) => [name, byId(id).value]);
  return { mode, rows, ...Object.fromEntries(fields) };
}

function fill(from) {
  byId("rows").replaceChildren();
  const rows = Array.isArray(from.rows) ? from.rows : [];
  for (const row of rows) addRow({ text: String(row.text ?? ""), task: String(row.task ?? "raw") });
  for (const [name, id] of Object.entries(FIELDS)) {
    if (from[name] === undefined) continue;
    const before = byId(id).value;
    byId(id).value = String(from[name]);
    // A size or a task that this model does not have.
    if (byId(id).tagName === "SELECT" && !byId(id).value) byId(id).value = before;
  }
  choose(byId(`mode-${Object.hasOwn(modes, from.mode) ? from.mode : "matrix"}`), false);
}

const choose = tabs(document.querySelector(".modes"), (tab) => {
  mode = tab.id.replace("mode-", "");
  for (const panel of byId("inputs").querySelectorAll("[role=tabpanel]")) {
    panel.hidden = panel.id !== `panel-${modes[mode].panel}`;
    if (!panel.hidden) panel.setAttribute("aria-labelledby", tab.id);
  }
  byId("inputs").classList.toggle("without-tasks", Boolean(modes[mode].withoutTasks));
  byId("settings").hidden = mode === "tokens";
  byId("explains").textContent = modes[mode].explains;
});

async function run() {
  running?.abort();
  const own = (running = new AbortController());
  const started = performance.now();
  busy(true);
  const progress = (share) => (byId("progress").value = share);
  const context = {
    model, tasks, task, progress, signal: own.signal,
    key: byId("key")?.value ?? "", dimensions: Number(byId("dimensions").value), type: byId("type").value,
  };
  try {
    const result = await modes[mode].run(state(), context);
    show(result, performance.now() - started);
  } catch (error) {
    if (error.name === "AbortError") {
      if (running === own) byId("receipt").textContent = "Stopped.";
    } else {
      problem(error instanceof Problem || error instanceof TypeError ? error.message : String(error));
    }
  } finally {
    if (running === own) {
      running = undefined;
      busy(false);
    }
  }
}

function busy(is) {
  byId("stop").hidden = byId("progress").hidden = !is;
  byId("run").disabled = is;
  if (is) {
    byId("progress").value = 0;
    byId("problem").hidden = true;
    byId("receipt").textContent = "Running…";
  }
}

function problem(words) {
  byId("problem").textContent = words;
  byId("problem").hidden = false;
  byId("receipt").textContent = "";
}

function show(result, ms) {
  last = result;
  byId("result").replaceChildren(...result.shown);
  const parts = [
    `${result.model} answered`, `${result.count} ${result.count === 1 ? "text" : "texts"}`,
    `${result.tokens.toLocaleString("en")} tokens`, `${Math.round(ms).toLocaleString("en")} ms`,
  ];
  if (Number(price) && !result.isFree) parts.push(`$${((result.tokens * price) / 1e12).toFixed(9).replace(/0+$/, "")}`);
  if (result.fingerprint) parts.push(result.fingerprint);
  byId("receipt").textContent = parts.join(" · ");
  byId("as-code").hidden = false;
  byId("download").hidden = !result.vectors;
  writeCode();
}

function writeCode() {
  if (last) byId("code").textContent = code(byId("language").value, origin, last.path ?? "/v1/embeddings", last.body);
}

/** The state behind `#`: JSON in UTF-8 in base64 for addresses. */
function written(value) {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function read(text) {
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
    const value = JSON.parse(new TextDecoder().decode(bytes));
    return value && typeof value === "object" ? value : undefined;
  } catch {
    return undefined;
  }
}

byId("inputs").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("add").addEventListener("click", () => addRow({ text: "", task: "raw" }).focus());
byId("language").addEventListener("change", writeCode);
byId("share").addEventListener("click", async () => {
  history.replaceState(null, "", `#${written(state())}`);
  byId("shared").textContent = (await copyText(location.href)) ? "Copied." : "The link is in the address bar.";
});
byId("download").addEventListener("click", () => {
  const { model: name, fingerprint, vectors } = last;
  const blob = new Blob([JSON.stringify({ model: name, system_fingerprint: fingerprint, vectors })], { type: "application/json" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "vectors.json" });
  link.click();
  URL.revokeObjectURL(link.href);
});
copyButtons(document);
byId("dimensions").value = full;
addEventListener("hashchange", () => fill({ ...example, ...read(location.hash.slice(1)) }));
fill({ ...example, ...read(location.hash.slice(1)) });
