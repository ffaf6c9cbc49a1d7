// Asks a server through openai-node: `node check.mjs BASE_URL KEY`, {"texts", "model"} on stdin. Prints each
// way's vectors as little-endian f32 in base64.
import { text } from "node:stream/consumers";
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const { texts, model } = JSON.parse(await text(process.stdin));
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const ask = async (request) => {
  const { data } = await client.embeddings.create({ model, input: texts, ...request });
  return data.map(({ embedding }) => Buffer.from(Float32Array.from(embedding).buffer).toString("base64"));
};

console.log(
  JSON.stringify({
    default: await ask({}),
    float: await ask({ encoding_format: "float" }),
    task: await ask({ model: `${model}:retrieval.query` }),
    dimensions: await ask({ dimensions: 64 }),
  }),
);
