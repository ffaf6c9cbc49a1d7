const response = await fetch("«origin»/v1/embeddings", {
  method: "POST",
  headers: {
    "Authorization": `Bearer ${process.env.QUINTET_API_KEY ?? "none"}`,
    "Content-Type": "application/json",
  },
  body: JSON.stringify({
    model: "«model»",
    task: "«task»",
    dimensions: «dimensions»,
    input: ["Where do storks spend the winter?"],
  }),
});
const answer = await response.json();
console.log(answer.data[0].embedding.length, "dimensions,", answer.usage.total_tokens, "tokens");
