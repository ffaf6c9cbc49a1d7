"""Clients of Jina's API. Four of them have its address written into them; it is replaced in the object, nothing else."""
import warnings

import langchain_community.document_compressors.jina_rerank as langchain_rerank
import langchain_community.embeddings.jina as langchain_jina
import numpy as np
from chromadb.utils.embedding_functions import JinaEmbeddingFunction
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.jina import JinaDocumentEmbedder, JinaTextEmbedder
from haystack_integrations.components.rankers.jina import JinaRanker
from llama_index.embeddings.jinaai import JinaEmbedding

from served import CHUNKS, KEY, MODEL, TEXTS

QUESTION = "When does the train to Berlin leave?"


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


def expected_ranks(reference, query, documents):
    """Cosines of the query with each document, and the documents' places, best first."""
    (asked,) = reference.vectors([query], "retrieval.query")
    asked = np.frombuffer(asked, "<f4").astype(float)
    cosines = [np.frombuffer(v, "<f4").astype(float) @ asked for v in reference.vectors(documents, "retrieval.passage")]
    return cosines, sorted(range(len(documents)), key=lambda index: -cosines[index])


def ranked(found, cosines, places):
    """Asserts places and scores; a score is a sum of its own, so the last bits may differ from ours."""
    assert [index for index, _ in found] == places[: len(found)], f"{found}, expected {places}"
    assert all(abs(score - cosines[index]) < 1e-6 for index, score in found), f"{found}, expected {cosines}"


def langchain_community_rerank(server, reference):
    """LangChain's reranker over Jina's route."""
    langchain_rerank.JINA_API_URL = f"{server.v1}/rerank"
    client = langchain_rerank.JinaRerank(jina_api_key=KEY, model=MODEL)
    answer = client.rerank(TEXTS, QUESTION, top_n=3)
    assert len(answer) == 3
    ranked([(row["index"], row["relevance_score"]) for row in answer], *expected_ranks(reference, QUESTION, TEXTS))


def haystack_rerank(server, reference):
    """Haystack's ranker over Jina's route."""
    client = JinaRanker(model=MODEL, api_key=Secret.from_token(KEY), base_url=f"{server.v1}/rerank")
    answer = client.run(QUESTION, [Document(content=text) for text in TEXTS])
    found = [(TEXTS.index(document.content), document.score) for document in answer["documents"]]
    assert len(found) == len(TEXTS) and answer["meta"]["usage"]["total_tokens"] > len(TEXTS)
    ranked(found, *expected_ranks(reference, QUESTION, TEXTS))


def litellm_rerank(server, reference):
    """LiteLLM's call, through its Jina side."""
    import litellm  # slow to import

    answer = litellm.rerank(
        model=f"jina_ai/{MODEL}", query=QUESTION, documents=TEXTS, top_n=4, api_base=server.url, api_key=KEY
    )
    found = [(row["index"], row["relevance_score"]) for row in answer.results]
    assert len(found) == 4
    ranked(found, *expected_ranks(reference, QUESTION, TEXTS))


CLIENTS = [
    ("langchain-community, Jina", "/v1/embeddings", langchain_community_jina),
    ("llama-index-embeddings-jinaai", "/v1/embeddings", llama_index_jina),
    ("jina-haystack", "/v1/embeddings", haystack_jina),
    ("chromadb, Jina", "/v1/embeddings", chroma_jina),
    ("langchain-community, Jina rerank", "/v1/rerank", langchain_community_rerank),
    ("jina-haystack, rerank", "/v1/rerank", haystack_rerank),
    ("litellm, Jina rerank", "/v1/rerank", litellm_rerank),
]
