import os

from openai import OpenAI

client = OpenAI(base_url="«origin»/v1", api_key=os.environ.get("QUINTET_API_KEY", "none"))
answer = client.embeddings.create(
    model="«model»:«task»",
    dimensions=«dimensions»,
    input=["Where do storks spend the winter?"],
)
print(len(answer.data[0].embedding), "dimensions,", answer.usage.total_tokens, "tokens")
