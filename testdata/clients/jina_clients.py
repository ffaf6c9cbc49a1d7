"""Clients of Jina's API. Three of them have its address written into them; it is replaced in the object, nothing else."""
import warnings

import langchain_community.embeddings.jina as langchain_jina
from chromadb.utils.embedding_functions import JinaEmbeddingFunction
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.jina import JinaDocumentEmbedder, JinaTextEmbedder
from llama_index.embeddings.jinaai import JinaEmbedding

from served import CHUNKS, KEY, MODEL, TEXTS


def langchain_community_jina(server, reference):
    """No task field: the base model, or a task in the model id. Errors are read from `detail`."""
    langchain_jina.JINA_API_URL = f"{server.v1}/embeddings"
    client = langchain_jina.JinaEmbeddings(jina_api_key=KEY, model_name=MODEL)
    reference.same(client.embed_documents(TEXTS), TEXTS)
    reference.same([client.embed_query(TEXTS[2])], TEXTS[2:3])
    client = langchain_jina.JinaEmbeddings(jina_api_key=KEY, model_name=f"{MODEL}:retrieval.passage")
    reference.same(client.embed_documents(TEXTS), TEXTS, "retrieval.passage")
    try:
        client.embed_documents(["a", ""])
        raise AssertionError("an empty text is not refused")
    except RuntimeError as error:
        assert "is empty" in str(error), error


def llama_index_jina(server, reference):
    """Tasks, sizes, `encoding_type` binary and ubinary, late chunking."""

    def client(**options):
        made = JinaEmbedding(model=MODEL, api_key=KEY, **options)
        made._api.api_url = f"{server.v1}/embeddings"
        return made

    reference.same(client().get_text_embedding_batch(TEXTS), TEXTS)
    queries = client(task="retrieval.query")
    reference.same([queries.get_query_embedding(text) for text in TEXTS[:3]], TEXTS[:3], "retrieval.query")
    cut = client(task="retrieval.passage", dimensions=64)
    reference.same(cut.get_text_embedding_batch(TEXTS), TEXTS, "retrieval.passage", dimensions=64)
    for encoding in ("binary", "ubinary"):
        bits = client(encoding_documents=encoding).get_text_embedding_batch(TEXTS)
        assert all((a == b).all() for a, b in zip(bits, reference.bits(TEXTS), strict=True)), encoding
        reference.compared += len(bits)
    late = client(task="retrieval.passage", late_chunking=True).get_text_embedding_batch(CHUNKS)
    reference.equal(late, reference.chunks(CHUNKS, "retrieval.passage"))


def haystack_jina(server, reference):
    """A text and documents, tasks, sizes, late chunking; usage is added up."""
    address = {"base_url": f"{server.v1}/embeddings", "api_key": Secret.from_token(KEY), "model": MODEL}
    text = JinaTextEmbedder(task="retrieval.query", **address).run(TEXTS[0])
    reference.same([text["embedding"]], TEXTS[:1], "retrieval.query")

    def embeddings(texts, **options):
        embedder = JinaDocumentEmbedder(progress_bar=False, **options, **address)
        answer = embedder.run([Document(content=text) for text in texts])
        assert answer["meta"]["usage"]["total_tokens"] > len(texts), answer["meta"]
        return [document.embedding for document in answer["documents"]]

    reference.same(embeddings(TEXTS, batch_size=3), TEXTS)
    passages = embeddings(TEXTS, task="retrieval.passage", dimensions=64)
    reference.same(passages, TEXTS, "retrieval.passage", dimensions=64)
    late = embeddings(CHUNKS, task="retrieval.passage", late_chunking=True)
    reference.equal(late, reference.chunks(CHUNKS, "retrieval.passage"))


def chroma_jina(server, reference):
    """Documents and queries under tasks of their own, sizes, unscaled vectors."""
    warnings.simplefilter("ignore", DeprecationWarning)  # about keys in arguments

    def function(**options):
        made = JinaEmbeddingFunction(api_key=KEY, model_name=MODEL, **options)
        made._api_url = f"{server.v1}/embeddings"
        return made

    pair = function(task="retrieval.passage", query_config={"task": "retrieval.query"})
    reference.same(pair(TEXTS), TEXTS, "retrieval.passage")
    reference.same(pair.embed_query(TEXTS), TEXTS, "retrieval.query")
    reference.same(function(dimensions=64, embedding_type="float", truncate=False)(TEXTS), TEXTS, dimensions=64)
    reference.same(function(normalized=False)(TEXTS), TEXTS, normalized=False)
    late = function(task="retrieval.passage", late_chunking=True)(CHUNKS)
    reference.equal(late, reference.chunks(CHUNKS, "retrieval.passage"))


CLIENTS = [
    ("langchain-community, Jina", "/v1/embeddings", langchain_community_jina),
    ("llama-index-embeddings-jinaai", "/v1/embeddings", llama_index_jina),
    ("jina-haystack", "/v1/embeddings", haystack_jina),
    ("chromadb, Jina", "/v1/embeddings", chroma_jina),
]
