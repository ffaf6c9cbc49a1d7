/** The list of models: find, filter, sort, cards or table, and how busy the server is. */
const byId = (id) => document.getElementById(id);
const cards = [...byId("cards").children];
const lines = new Map([...byId("table").querySelectorAll("tr[data-id]")].map((line) => [line.dataset.id, line]));
const tick = (card) => card.querySelector("[name=models]");
const line = (card) => lines.get(tick(card).value);

function show() {
  const words = byId("find").value.toLowerCase().split(/\s+/);
  const status = byId("status").value;
  const sort = byId("sort").value;
  const number = sort !== "name";
  // The largest first, but for the order of the catalogue and for what costs least.
  const sign = sort === "order" || sort === "price" ? 1 : -1;
  const sorted = cards.toSorted((a, b) =>
    number ? sign * (a.dataset[sort] - b.dataset[sort]) : a.dataset.name.localeCompare(b.dataset.name));
  for (const card of sorted) {
    const all = `${card.dataset.words} ${card.textContent}`.toLowerCase();
    const compared = card.dataset.status === "for comparison";
    const fits = words.every((word) => all.includes(word)) && (!status || (status === "comparison") === compared);
    card.hidden = line(card).hidden = !fits;
    byId("cards").append(card);
    line(card).parentElement.append(line(card));
  }
  byId("none").hidden = cards.some((card) => !card.hidden);
}

function view(asTable) {
  byId("cards").hidden = asTable;
  byId("table").hidden = !asTable;
  byId("as-cards").setAttribute("aria-pressed", String(!asTable));
  byId("as-table").setAttribute("aria-pressed", String(asTable));
}

for (const id of ["find", "status", "sort"]) byId(id).addEventListener("input", show);
byId("find").addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
byId("all").addEventListener("click", () => {
  byId("find").value = byId("status").value = "";
  show();
});
byId("as-cards").addEventListener("click", () => view(false));
byId("as-table").addEventListener("click", () => view(true));
// A card and its line are one tick; the card's is sent.
for (const card of cards) {
  const other = line(card).querySelector("input");
  tick(card).addEventListener("change", () => (other.checked = tick(card).checked));
  other.addEventListener("change", () => (tick(card).checked = other.checked));
  other.checked = tick(card).checked;
}

let before;
async function throughput() {
  if (document.hidden) return;
  const response = await fetch("/metrics");
  const tokens = Number((await response.text()).match(/^quintet_tokens_total (\S+)/m)?.[1]);
  const now = { tokens, time: performance.now() };
  if (before && tokens >= before.tokens) {
    const rate = Math.round(((tokens - before.tokens) * 1000) / (now.time - before.time));
    byId("throughput").textContent = `At the moment: ${rate.toLocaleString("en")} tokens a second.`;
  }
  before = now;
}
const watch = () => throughput().catch(() => (byId("throughput").textContent = ""));
watch();
setInterval(watch, 5000);
