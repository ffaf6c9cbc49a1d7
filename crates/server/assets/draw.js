/** Results as elements. Texts of people become text nodes and nothing else. */

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

export function shape(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

const shortened = (text, length) => (text.length > length ? `${text.slice(0, length)}…` : text);
const percent = (value) => Math.max(0, Math.min(1, value)) * 100;

/** Cosines of texts with each other. */
export function heat(labels, cosines, caption) {
  const head = element("tr", {}, element("td"), ...labels.map((_, index) => element("th", { scope: "col" }, String(index + 1))));
  const lines = cosines.map((line, index) => {
    const cells = line.map((value) => {
      const cell = element("td", {}, value.toFixed(3));
      cell.style.setProperty("--heat", percent(value));
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row", title: labels[index] }, `${index + 1} ${shortened(labels[index], 60)}`), ...cells);
  });
  const table = element("table", { class: "heat" }, element("caption", { class: "hidden" }, caption), element("thead", {}, head), element("tbody", {}, ...lines));
  return element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption }, table);
}

/** Passages by their cosine with the query, the nearest first. */
export function ranked(passages) {
  const items = passages.toSorted((a, b) => b.score - a.score).map(({ text, score }) => {
    const item = element("li", {}, element("b", {}, score.toFixed(3)), element("span", {}, text));
    item.style.setProperty("--share", percent(score));
    return item;
  });
  return element("ol", { class: "ranked" }, ...items);
}

/** Chunks in their order, with cosines: of late chunking, and of each chunk embedded alone. */
export function chunkTable(rows) {
  const best = (name) => Math.max(...rows.map((row) => row[name]));
  const [late, alone] = [best("late"), best("alone")];
  const number = (value, isBest) => element("td", { class: isBest ? "number best" : "number" }, value.toFixed(3));
  const lines = rows.map((row) => {
    const text = element("td", {}, row.text.trim());
    text.style.setProperty("--share", percent(row.late));
    return element("tr", {}, text, number(row.late, row.late === late), number(row.alone, row.alone === alone));
  });
  const head = element("tr", {}, ...["Chunk", "late", "alone"].map((title, index) => element("th", { scope: "col", class: index ? "number" : "" }, title)));
  return element("table", { class: "chunks" }, element("thead", {}, head), element("tbody", {}, ...lines));
}

/** The tokens that the model sees. */
export function pieces(tokens, instruction) {
  let plain = 0;
  const items = tokens.map((token) => {
    const kind = token.special ? "special" : plain++ < instruction ? "instruction" : "";
    return element("li", { class: kind, title: `id ${token.id}` }, token.text || "␣");
  });
  return element("ol", { class: "pieces" }, ...items);
}

/** Texts as points; names stand beside them where there is room. */
export function map(texts, places) {
  const [width, height, edge] = [600, 420, 24];
  const range = (axis) => {
    const values = places.map((place) => place[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (value) => (high > low ? (value - low) / (high - low) : 0.5);
  };
  const [x, y] = [range(0), range(1)];
  const shown = element("p", { class: "map-text", role: "status" }, "Point at a text, or go through them with the tab key.");
  const taken = [];
  const points = places.flatMap((place, index) => {
    const at = { x: edge + x(place[0]) * (width - 2 * edge), y: edge + y(place[1]) * (height - 2 * edge) };
    const point = shape("circle", { cx: at.x, cy: at.y, r: 6, tabindex: 0, role: "img", "aria-label": texts[index] });
    for (const event of ["mouseenter", "focus"]) point.addEventListener(event, () => (shown.textContent = texts[index]));
    const words = shortened(texts[index], 26);
    const isRight = at.x > width * 0.62;
    const left = isRight ? at.x - 10 - 7 * words.length : at.x + 10;
    // A name that would lie on another stands a line lower or higher, or not at all.
    const free = (level) => taken.every((other) => Math.abs(other.level - level) > 13 || other.left > left + 7 * words.length || left > other.right);
    const level = [at.y, at.y + 14, at.y - 14].find(free);
    if (level === undefined) return [point];
    taken.push({ level, left, right: left + 7 * words.length });
    return [point, shape("text", { x: at.x + (isRight ? -10 : 10), y: level + 4, class: isRight ? "right" : "left", "aria-hidden": true }, words)];
  });
  return [shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "map" }, ...points), shown];
}
