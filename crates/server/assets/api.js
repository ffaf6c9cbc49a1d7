/** Requests of the playground to this server's public routes. */
import { signs } from "./vectors.js";

/** Words for the person; `param` is the part of the request that they are about. */
export class Problem extends Error {
  constructor(words, param) {
    super(words);
    this.param = param;
  }
}

/** Texts of one request; between two, a run can show how far it is. */
const GROUP = 32;

export async function ask(path, body, { key, signal }) {
  const headers = { "content-type": "application/json", prefer: "wait=30" };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached.");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const words = answer?.error?.message ?? answer?.error ?? `The server answered ${response.status}.`;
  const wait = response.headers.get("retry-after");
  throw new Problem(wait ? `${words}. Try again in ${wait} s.` : String(words), answer?.error?.param);
}

/** The body of an embedding request. */
export const request = (model, input, { dimensions, type, late }) => ({
  model,
  input,
  dimensions,
  ...(type === "float" ? {} : { embedding_type: type }),
  ...(late ? { late_chunking: true, task: late } : {}),
});

/** Vectors of items as numbers, and what they cost. */
export async function embed(model, items, options) {
  const result = { vectors: [], tokens: 0, fingerprint: "", model };
  // Late chunking is one document, which cannot be cut.
  const group = options.late ? items.length : GROUP;
  for (let at = 0; at < items.length; at += group) {
    options.progress?.(at / items.length);
    const part = items.slice(at, at + group);
    const answer = await ask("/v1/embeddings", request(model, part, options), options);
    for (const { embedding } of answer.data) {
      result.vectors.push(options.type === "binary" ? signs(embedding) : embedding);
    }
    result.tokens += answer.usage.total_tokens;
    result.fingerprint = answer.system_fingerprint;
    result.model = answer.model;
  }
  return result;
}
