/** The quality dial: a collection to the server, its numbers to the dial. */
import { Problem, ask } from "./api.js";
import { code } from "./code.js";
import { copyButtons } from "./copy.js";
import { advice, chart, costs, recommended, table } from "./dial.js";
import { element } from "./draw.js";

const byId = (id) => document.getElementById(id);
const { model, price, origin, bytes } = byId("quality").dataset;

let running;
/** The files of a BEIR folder, while it stands in place of the text: name, corpus, queries, and relevances by name. */
let folder;
/** The last answer, and the row that the dial stands at. */
let last, chosen;

async function run() {
  running?.abort();
  const own = (running = new AbortController());
  const started = performance.now();
  busy(true);
  try {
    const collection = folder ? await texts(folder) : byId("collection").value;
    if (!folder && !collection.trim()) throw new Problem("There is no collection yet. Paste one, open a file, or try the sample.");
    const body = { model, collection, recall_at: Number(byId("recall").value), ...(byId("truncate").value && { truncate: byId("truncate").value }) };
    show(await ask("/v1/quality", body, { key: byId("key")?.value ?? "", signal: own.signal }), performance.now() - started);
  } catch (error) {
    if (error.name === "AbortError") {
      if (running === own) byId("receipt").textContent = "Stopped.";
    } else {
      // What stands there is of another collection.
      byId("result").hidden = true;
      byId("nothing").hidden = false;
      problem(error instanceof Problem ? words(error) : String(error));
    }
  } finally {
    if (running === own) {
      running = undefined;
      busy(false);
    }
  }
}

/** A refused text is named by its line, relevances by their file. */
function words({ message, param }) {
  if (param?.startsWith("line ")) return `L${param.slice(1)}: ${message}`;
  return folder ? message.replaceAll("`qrels`", `\`${byId("split").value}\``) : message;
}

function busy(is) {
  byId("stop").hidden = byId("progress").hidden = !is;
  byId("run").disabled = byId("try").disabled = is;
  if (is) {
    byId("problem").hidden = true;
    byId("receipt").textContent = "Running…";
  }
}

function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = false;
  byId("receipt").textContent = "";
}

function show(answer, ms) {
  last = answer;
  const { documents, queries, usage } = answer;
  const parts = [
    `${answer.model} answered in ${answer.precision}`, `${documents.count.toLocaleString("en")} documents, ${queries.count.toLocaleString("en")} ${queries.count === 1 ? "query" : "queries"}`,
    `${usage.total_tokens.toLocaleString("en")} tokens`, `${Math.round(ms).toLocaleString("en")} ms`,
  ];
  if (documents.left_out) parts.push(`${documents.left_out.toLocaleString("en")} without a text left out`);
  if (Number(price)) parts.push(`$${((usage.total_tokens * price) / 1e12).toFixed(9).replace(/0+$/, "")}`);
  byId("receipt").textContent = [...parts, answer.system_fingerprint].join(" · ");
  byId("nothing").hidden = true;
  byId("result").hidden = false;
  turn();
  byId("found").focus({ preventScroll: true });
  byId("receipt").scrollIntoView({ block: "start" });
}

/** Everything that depends on where the dial stands, and on the person's own numbers. */
function turn() {
  if (!last) return;
  const keep = byId("keep").valueAsNumber / 100;
  byId("kept").textContent = `${byId("keep").value} %`;
  chosen = recommended(last.measurements, keep);
  const given = { documents: byId("documents").valueAsNumber || 0, storage: byId("storage").valueAsNumber || 0, price: Number(price) };
  byId("advice").replaceChildren(...advice(last, chosen));
  byId("costs").replaceChildren(...costs(last, chosen, given));
  byId("chart").replaceChildren(...chart(last, chosen, keep, byId("chart").clientWidth));
  byId("table").replaceChildren(table(last, chosen, keep, given));
  byId("as-code").hidden = !chosen;
  writeCode();
}

function writeCode() {
  if (!chosen) return;
  const { dimensions, embedding_type: type } = chosen;
  const body = { model: last.model, task: "retrieval.passage", input: ["Parcels take two days."], dimensions, ...(type !== "float" && { embedding_type: type }) };
  byId("code").textContent = code(byId("language").value, origin, "/v1/embeddings", body);
}

async function decoded(file, name = "The file") {
  if (file.size > Number(bytes)) throw new Problem(`${name} has ${file.size.toLocaleString("en")} bytes, this server takes ${Number(bytes).toLocaleString("en")}; quintet tune reads it in a terminal.`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Problem(`${name} is not UTF-8 text. Save it as CSV in UTF-8, or as JSONL.`);
  }
}

/** The file's text into the field, where it can be seen and changed. */
async function open(file) {
  if (!file) return;
  byId("problem").hidden = true;
  try {
    byId("collection").value = await decoded(file);
    leave();
  } catch (error) {
    problem(error.message);
  }
}

/** A folder in place of the text: its files are read when they are measured. */
function openFolder(files) {
  if (!files.length) return;
  byId("problem").hidden = true;
  // The paths begin with the folder that was chosen.
  const [name] = files[0].webkitRelativePath.split("/");
  const at = (path) => files.find((file) => file.webkitRelativePath === `${name}/${path}`);
  const [corpus, queries] = [at("corpus.jsonl"), at("queries.jsonl")];
  const qrels = files.filter((file) => /^[^/]+\/qrels\/[^/]+\.tsv$/.test(file.webkitRelativePath));
  const missing = !corpus ? "corpus.jsonl" : !queries ? "queries.jsonl" : !qrels.length ? "qrels/test.tsv" : undefined;
  if (missing) return problem(`The folder ${name} has no ${missing}; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv.`);
  folder = { corpus, queries, qrels };
  byId("folder-name").textContent = name;
  byId("folder-files").textContent = [corpus, queries].map((file) => `${file.name}, ${Math.ceil(file.size / 1000).toLocaleString("en")} KB`).join(" · ");
  byId("split").replaceChildren(...qrels.map((file) => element("option", file.name === "test.tsv" ? { selected: "" } : {}, `qrels/${file.name}`)));
  byId("folder").hidden = false;
  byId("pasted").hidden = true;
}

/** Back to the text. */
function leave() {
  folder = undefined;
  byId("folder").hidden = true;
  byId("pasted").hidden = false;
}

/** What the server is asked with. */
async function texts({ corpus, queries, qrels }) {
  const chosen = qrels[byId("split").selectedIndex];
  const all = corpus.size + queries.size + chosen.size;
  if (all > Number(bytes)) throw new Problem(`The files have ${all.toLocaleString("en")} bytes, this server takes ${Number(bytes).toLocaleString("en")}; quintet tune reads the folder in a terminal.`);
  return { corpus: await decoded(corpus, "corpus.jsonl"), queries: await decoded(queries, "queries.jsonl"), qrels: await decoded(chosen, byId("split").value) };
}

function download() {
  const fields = ["dimensions", "embedding_type", "bytes", "ndcg", "recall", "difference", "interval"];
  const lines = last.measurements.map((row) => fields.map((field) => row[field] ?? "").join(","));
  const blob = new Blob([[fields.join(","), ...lines, ""].join("\n")], { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "quality.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
}

byId("inputs").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
byId("try").addEventListener("click", () => {
  leave();
  byId("collection").value = byId("sample").content.textContent;
  run();
});
byId("stop").addEventListener("click", () => running?.abort());
for (const [id, read] of [["file", ([file]) => open(file)], ["beir", openFolder]]) {
  byId(id).addEventListener("change", ({ target }) => {
    read([...target.files]);
    // A file that was mended is chosen again, and the same choice twice is no change.
    target.value = "";
  });
}
byId("leave").addEventListener("click", leave);
for (const id of ["keep", "documents", "storage"]) byId(id).addEventListener("input", turn);
byId("language").addEventListener("change", writeCode);
byId("download").addEventListener("click", download);
addEventListener("resize", turn);
copyButtons(document);
