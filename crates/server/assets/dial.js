/** The numbers of /v1/quality as a recommendation, a chart and a table. */
import { element, shape } from "./draw.js";

const TYPES = ["float", "int8", "binary"];
/** Of so few queries even the interval tells nothing. */
const FEW = 20;
const percent = (share, digits = 1) => (100 * share).toFixed(digits);
const signed = (share) => `${Math.abs(share) < 0.0005 ? "" : share < 0 ? "−" : "+"}${percent(Math.abs(share))}`;
const grouped = (number) => number.toLocaleString("en", { maximumFractionDigits: 0 });
const full = (rows) => rows.filter((row) => row.embedding_type === "float").reduce((a, b) => (b.dimensions > a.dimensions ? b : a));
const keeps = (row, rows, keep) => full(rows).ndcg > 0 && row.ndcg >= keep * full(rows).ndcg;

/** The smallest vectors that keep so much, as the server recommends them at 98 %. */
export const recommended = (rows, keep) =>
  rows.filter((row) => keeps(row, rows, keep)).toSorted((a, b) => a.bytes - b.bytes || b.ndcg - a.ndcg)[0];

/** 128 MB, 1.02 GB. */
function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; bytes >= 999.5 && unit < units.length - 1; unit++) bytes /= 1000;
  return `${unit ? bytes.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") : bytes} ${units[unit]}`;
}

function dollars(amount) {
  if (amount === 0) return "$0";
  if (amount < 0.01) return `$${amount.toPrecision(1)}`;
  return `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

const within = ({ difference, interval }) => `${signed(difference)}${interval === null ? "" : ` ± ${percent(interval)}`}`;

/** What to take, and how sure that is. */
export function advice({ measurements, queries, documents, recall_at: places }, chosen) {
  if (!chosen) {
    return [element("p", {}, element("strong", {}, "Nothing is found.")), element("p", {}, "Not even full-size vectors put a relevant document among the first ten. Look at the collection: are queries and documents in the right columns?")];
  }
  const reference = full(measurements);
  const words = chosen === reference
    ? `Nothing smaller keeps so much: nDCG@10 is ${percent(chosen.ndcg)} %.`
    : `${size(chosen.bytes)} a vector, ${percent(chosen.bytes / reference.bytes, chosen.bytes / reference.bytes < 0.1 ? 1 : 0)} % of full size. nDCG@10 is ${percent(chosen.ndcg)} % in place of ${percent(reference.ndcg)} %, ${within(chosen)} points.`;
  const shown = [element("p", { class: "choice" }, `${chosen.dimensions} dimensions, ${chosen.embedding_type}`), element("p", {}, words)];
  const { interval } = chosen;
  if (queries.count < FEW) {
    shown.push(element("p", { class: "source" }, `${queries.count === 1 ? "One query tells" : `${queries.count} queries tell`} little: bring more.`));
  } else if (interval > 0.02) {
    shown.push(element("p", { class: "source" }, `${grouped(queries.count)} queries are too few to tell differences below ${percent(interval)} points from chance: bring more.`));
  }
  if (documents.count <= places) shown.push(element("p", { class: "source" }, `Recall over ${places} places is always 100 % with ${documents.count} documents.`));
  return shown;
}

/** What the person's own number of documents comes to. */
export function costs({ measurements, documents }, chosen, given) {
  if (!chosen || !(given.documents > 0)) return [];
  const reference = full(measurements);
  const stored = (row) => row.bytes * given.documents;
  const tokens = (documents.tokens / documents.count) * given.documents;
  const against = (value) => (chosen === reference ? value(chosen) : `${value(chosen)} in place of ${value(reference)}`);
  const rows = [["Vectors", against((row) => size(stored(row)))]];
  if (given.storage > 0) rows.push(["A month", against((row) => dollars((stored(row) / 1e9) * given.storage))]);
  rows.push(["Embedding", `${grouped(tokens)} tokens once, ${given.price ? dollars((tokens * given.price) / 1e12) : "not charged here"}`]);
  return rows.map(([title, text]) => element("div", {}, element("dt", {}, title), element("dd", {}, text)));
}

/** Every size and type, those that keep enough in full ink. */
export function table({ measurements, recall_at: places }, chosen, keep, given) {
  const titles = ["Type", "Dimensions", "Bytes", "nDCG@10", `Recall@${places}`, "Against full size"];
  if (given.documents > 0) titles.push(`${grouped(given.documents)} of them`);
  if (given.documents > 0 && given.storage > 0) titles.push("A month");
  const number = (text) => element("td", { class: "number" }, text);
  const lines = TYPES.flatMap((type) => measurements.filter((row) => row.embedding_type === type)).map((row) => {
    const cells = [number(row.dimensions), number(grouped(row.bytes)), number(`${percent(row.ndcg)} %`), number(`${percent(row.recall)} %`), number(row === full(measurements) ? "–" : within(row))];
    if (given.documents > 0) cells.push(number(size(row.bytes * given.documents)));
    if (given.documents > 0 && given.storage > 0) cells.push(number(dollars(((row.bytes * given.documents) / 1e9) * given.storage)));
    const name = element("th", { scope: "row" }, row.embedding_type, ...(row === chosen ? [element("span", { class: "chip" }, "recommended")] : []));
    return element("tr", { class: row === chosen ? "chosen" : keeps(row, measurements, keep) ? "" : "less" }, name, ...cells);
  });
  const head = element("tr", {}, ...titles.map((title, index) => element("th", { scope: "col", class: index ? "number" : "" }, title)));
  const caption = "Quality and size of every vector";
  const made = element("table", { class: "settings-table" }, element("caption", { class: "hidden" }, caption), element("thead", {}, head), element("tbody", {}, ...lines));
  return element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption }, made);
}

const MARKS = {
  float: (x, y) => shape("circle", { cx: x, cy: y, r: 4.5 }),
  int8: (x, y) => shape("rect", { x: x - 4, y: y - 4, width: 8, height: 8 }),
  binary: (x, y) => shape("path", { d: `M${x} ${y - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5z` }),
};

/** nDCG over bytes, each step to the right twice as many; the dashed line is what is to be kept. */
export function chart({ measurements }, chosen, keep, room) {
  const [width, height] = [Math.max(300, Math.min(room, 680)), 320];
  const [left, right, top, bottom] = [44, width - 14, 24, height - 44];
  const bytes = measurements.map((row) => Math.log2(row.bytes));
  const [least, most] = [Math.min(...bytes), Math.max(...bytes)];
  const values = measurements.map((row) => 100 * row.ndcg);
  const low = Math.floor(Math.min(...values) / 10) * 10;
  const high = Math.max(Math.ceil(Math.max(...values) / 10) * 10, low + 10);
  const x = (row) => left + 10 + ((Math.log2(row.bytes) - least) / (most - least || 1)) * (right - left - 20);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  const text = (words, attributes) => shape("text", attributes, words);
  const parts = [];
  const step = high - low > 50 ? 20 : 10;
  for (let at = low; at <= high; at += step) parts.push(shape("path", { d: `M${left} ${y(at)}H${right}`, class: "grid" }), text(`${at} %`, { x: left - 8, y: y(at) + 4, class: "right small" }));
  for (let at = Math.ceil(least); at <= most; at += most - least > 8 ? 2 : 1) parts.push(text(grouped(2 ** at), { x: x({ bytes: 2 ** at }), y: bottom + 18, class: "small" }));
  parts.push(text("bytes a vector", { x: (left + right) / 2, y: bottom + 36, class: "small" }));
  const bound = 100 * keep * full(measurements).ndcg;
  if (bound >= low && bound > 0) parts.push(shape("path", { d: `M${left} ${y(bound)}H${right}`, class: "bound" }));
  for (const type of TYPES) {
    const rows = measurements.filter((row) => row.embedding_type === type);
    const places = rows.map((row) => [x(row), y(100 * row.ndcg)]);
    const marks = rows.map((row, index) => {
      const mark = MARKS[type](...places[index]);
      mark.append(shape("title", {}, `${row.dimensions} dimensions, ${type}: ${percent(row.ndcg)} %, ${grouped(row.bytes)} bytes`));
      return mark;
    });
    // Sizes stand above, those of floats below, where they are not in the way of those of bytes.
    const aside = (row) => (type === "float" ? 1.5 : -1) * (row === chosen ? 15 : 12);
    const names = width < 480 ? [] : rows.map((row, index) => text(row.dimensions, { x: places[index][0], y: places[index][1] + aside(row), class: "small halo" }));
    parts.push(...names, shape("g", { class: `series ${type}` }, shape("polyline", { points: places.map((place) => place.join(",")).join(" ") }), ...marks));
  }
  if (chosen) parts.push(shape("circle", { cx: x(chosen), cy: y(100 * chosen.ndcg), r: 10, class: "ring" }));
  const said = measurements.map((row) => `${row.dimensions} ${row.embedding_type} ${percent(row.ndcg)} %`).join(", ");
  const drawn = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `nDCG@10 by size and type: ${said}` }, ...parts);
  const keys = TYPES.map((type) => element("span", {}, shape("svg", { viewBox: "0 0 12 12", "aria-hidden": "true", class: `series ${type}` }, MARKS[type](6, 6)), type));
  return [drawn, element("p", { class: "legend" }, ...keys, element("span", { class: "bound-key" }, "what is to be kept"))];
}
