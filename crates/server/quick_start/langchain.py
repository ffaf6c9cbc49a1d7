import os

from langchain_openai import OpenAIEmbeddings

embeddings = OpenAIEmbeddings(
    base_url="«origin»/v1",
    api_key=os.environ.get("QUINTET_API_KEY", "none"),
    model="«model»:«task»",
    dimensions=«dimensions»,
    check_embedding_ctx_length=False,
)
print(len(embeddings.embed_query("Where do storks spend the winter?")), "dimensions")
