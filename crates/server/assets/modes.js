/** What can be tried: each mode reads its inputs, asks the server and draws the answer. */
import { ask, embed, request } from "./api.js";
import { chunkTable, element, heat, map, pieces, ranked } from "./draw.js";
import { chunks, cosine, matrix, places } from "./vectors.js";

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const filled = (rows) => rows.filter((row) => row.text.trim());
const NOTHING = "There is no text yet.";
const MAP_TEXTS = 300;

/**
 * `run(state, context)` gives what is drawn, what was metered, the request for the code, and what can be
 * downloaded. `context` has the model's name, its tasks, and the options of `embed`.
 */
export const modes = {
  matrix: {
    panel: "matrix",
    explains: "How near texts are to each other, each under a task of its own.",
    async run({ rows }, context) {
      const items = filled(rows);
      if (!items.length) throw new TypeError(NOTHING);
      const answer = await embed(context.model, items, context);
      return {
        shown: [heat(items.map((item) => item.text), matrix(answer.vectors), "Cosine similarity of the texts")],
        body: request(context.model, items, context), count: items.length, ...answer,
        vectors: items.map((item, index) => ({ ...item, embedding: answer.vectors[index] })),
      };
    },
  },
  tasks: {
    panel: "matrix",
    withoutTasks: true,
    explains: "The same texts under every task: what each adapter makes near and far.",
    async run({ rows }, context) {
      const texts = filled(rows).map((row) => row.text);
      if (!texts.length) throw new TypeError(NOTHING);
      const items = context.tasks.flatMap((task) => texts.map((text) => ({ text, task })));
      const answer = await embed(context.model, items, context);
      const parts = context.tasks.map((task, index) => {
        const vectors = answer.vectors.slice(index * texts.length, (index + 1) * texts.length);
        return element("div", {}, element("h3", {}, task), heat(texts.map(() => ""), matrix(vectors), `Cosine similarity under ${task}`));
      });
      return {
        shown: [element("div", { class: "side-by-side" }, ...parts)],
        body: request(context.model, items, context), count: items.length, ...answer,
        vectors: items.map((item, index) => ({ ...item, embedding: answer.vectors[index] })),
      };
    },
  },
  search: {
    panel: "search",
    explains: "Passages by their nearness to a query, each side under its own task.",
    async run({ query, passages }, context) {
      const texts = lines(passages);
      if (!query.trim() || !texts.length) throw new TypeError("A search needs a query and a passage.");
      const items = [{ text: query, task: context.task("retrieval.query") }, ...texts.map((text) => ({ text, task: context.task("retrieval.passage") }))];
      const answer = await embed(context.model, items, context);
      const [first, ...rest] = answer.vectors;
      return {
        shown: [ranked(texts.map((text, index) => ({ text, score: cosine(first, rest[index]) })))],
        body: request(context.model, items, context), count: items.length, ...answer,
        vectors: items.map((item, index) => ({ ...item, embedding: answer.vectors[index] })),
      };
    },
  },
  tokens: {
    panel: "matrix",
    explains: "The tokens that the model sees: what is its own around a text, and the instruction of its task.",
    async run({ rows }, context) {
      const items = filled(rows);
      if (!items.length) throw new TypeError(NOTHING);
      let tokens = 0;
      const shown = [];
      for (const [index, { text, task }] of items.entries()) {
        context.progress(index / items.length);
        const [[whole], [bare]] = await Promise.all([task, "raw"].map((name) =>
          ask("/tokenize", { inputs: [text], prompt_name: name }, context)));
        tokens += whole.length;
        shown.push(element("h3", {}, `${index + 1} ${task}, ${whole.length} tokens`), pieces(whole, whole.length - bare.length));
      }
      shown.push(element("p", { class: "source" }, "Blue: the model's own marks. Orange: the instruction."));
      const body = { inputs: [items[0].text], prompt_name: items[0].task };
      return { shown, body, path: "/tokenize", count: items.length, tokens, model: context.model, isFree: true };
    },
  },
  chunks: {
    panel: "chunks",
    explains: "A document embedded whole, a vector per chunk, so that a chunk knows what stands around it; beside it each chunk embedded alone.",
    async run({ chunkQuery, document, sentences }, context) {
      const texts = chunks(document, Math.max(1, Number(sentences) || 1));
      if (!chunkQuery.trim() || !texts.length) throw new TypeError("Late chunking needs a query and a document.");
      const passage = context.task("retrieval.passage");
      const asked = await embed(context.model, [{ text: chunkQuery, task: context.task("retrieval.query") }], context);
      context.progress(0.3);
      const late = await embed(context.model, texts, { ...context, late: passage });
      context.progress(0.7);
      const alone = await embed(context.model, texts.map((text) => ({ text, task: passage })), context);
      const [query] = asked.vectors;
      const rows = texts.map((text, index) => ({ text, late: cosine(query, late.vectors[index]), alone: cosine(query, alone.vectors[index]) }));
      return {
        shown: [chunkTable(rows)],
        body: request(context.model, texts, { ...context, late: passage }), count: texts.length, ...late,
        tokens: asked.tokens + late.tokens + alone.tokens,
        vectors: texts.map((text, index) => ({ text, embedding: late.vectors[index] })),
      };
    },
  },
  map: {
    panel: "map",
    explains: "Texts on a map: what is near on it is mostly near in meaning. Two of many directions are kept.",
    async run({ mapTexts, mapTask }, context) {
      const texts = lines(mapTexts);
      if (texts.length < 3) throw new TypeError("A map needs three texts at least.");
      if (texts.length > MAP_TEXTS) throw new TypeError(`A map holds ${MAP_TEXTS} texts at most; there are ${texts.length}.`);
      const items = texts.map((text) => ({ text, task: mapTask }));
      const answer = await embed(context.model, items, context);
      return {
        shown: map(texts, places(answer.vectors)),
        body: request(context.model, items, context), count: items.length, ...answer,
        vectors: items.map((item, index) => ({ ...item, embedding: answer.vectors[index] })),
      };
    },
  },
};

/** What stands in the fields at first. */
export const example = {
  mode: "matrix",
  rows: [
    { text: "When does the train to Berlin leave?", task: "retrieval.query" },
    { text: "Abfahrt der Züge nach Berlin: 8:15 und 10:45 Uhr.", task: "retrieval.passage" },
    { text: "Le musée est fermé le lundi.", task: "retrieval.passage" },
  ],
  query: "When does the train to Berlin leave?",
  passages: "Abfahrt der Züge nach Berlin: 8:15 und 10:45 Uhr.\nLe musée est fermé le lundi.\n気温は二十度まで上がるでしょう。\nThe bank raised interest rates.",
  chunkQuery: "How many people live in Berlin?",
  document: "Berlin is the capital of Germany. It has 3.9 million inhabitants. The city lies on the Spree. Its oldest quarter is first mentioned in 1237.",
  sentences: "1",
  mapTexts: "The weather is nice today.\nIt will rain tomorrow.\nDas Wetter ist heute schön.\n今日は天気がいいです。\nThe bank raised interest rates.\nЦентральный банк повысил ставку.\nShares fell sharply on Monday.\nLa inflación bajó en mayo.\nShe plays the violin.\nLe concert commence à huit heures.\nThe choir sang for two hours.\nEr hört gern Musik.",
  mapTask: "separation",
};
