"""OpenAI's own client, and the frameworks that speak its contract."""
import asyncio
import base64
import json
import time
import warnings

import numpy as np
import openai
import tiktoken
from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding

from served import ALIAS, KEY, MODEL, TEXTS, Served

QUERY, PASSAGE = f"{MODEL}:retrieval.query", f"{MODEL}:retrieval.passage"


def openai_python(server, reference):
    """base64 (its default) and float; a task in the model id, in the request and per item; sizes; errors."""
    client = openai.OpenAI(base_url=server.v1, api_key=KEY, max_retries=0)

    def vectors(**request):
        answer = client.embeddings.create(**request)
        assert answer.usage.prompt_tokens > 0 and [row.index for row in answer.data] == list(range(len(answer.data)))
        return [row.embedding for row in answer.data]

    reference.same(vectors(model=MODEL, input=TEXTS), TEXTS)
    reference.same(vectors(model=MODEL, input=TEXTS, encoding_format="float"), TEXTS)
    reference.same(vectors(model=MODEL, input=TEXTS[0]), TEXTS[:1])
    for task in ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"):
        reference.same(vectors(model=f"{MODEL}:{task}", input=TEXTS), TEXTS, task)
        reference.same(vectors(model=MODEL, input=TEXTS, extra_body={"task": task}), TEXTS, task)
    items = [{"text": TEXTS[0], "task": "retrieval.query"}, {"text": TEXTS[1], "task": "retrieval.passage"}]
    query, passage = vectors(model=MODEL, input=items)
    reference.same([query], TEXTS[:1], "retrieval.query")
    reference.same([passage], TEXTS[1:2], "retrieval.passage")
    reference.same(vectors(model=ALIAS, input=TEXTS, dimensions=64), TEXTS, dimensions=64)

    cl100k = tiktoken.get_encoding("cl100k_base")
    reference.same(vectors(model=MODEL, input=[cl100k.encode(text) for text in TEXTS]), TEXTS)
    reference.same(vectors(model=MODEL, input=cl100k.encode(TEXTS[0])), TEXTS[:1])

    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(QUERY).id == QUERY
    refused(openai.BadRequestError, "input[1]", vectors, model=MODEL, input=["a", ""])
    refused(openai.BadRequestError, "input", vectors, model=MODEL, input=[])
    refused(openai.BadRequestError, "dimensions", vectors, model=MODEL, input="a", dimensions=5000)
    refused(openai.NotFoundError, "model", vectors, model="no-such-model", input="a")
    too_long = refused(openai.BadRequestError, None, vectors, model=MODEL, input="stork " * 20_000)
    assert "maximum context length is 8192 tokens, however you requested" in too_long.message, too_long.message
    stranger = openai.OpenAI(base_url=server.v1, api_key="wrong", max_retries=0)
    refused(openai.AuthenticationError, None, stranger.embeddings.create, model=MODEL, input="a")


def refused(error_class, param, call, **request):
    try:
        call(**request)
    except error_class as error:
        assert param is None or error.param == param, f"param is {error.param}, expected {param}"
        return error
    raise AssertionError(f"not refused: {str(request)[:100]}")


def openai_batches(server, reference):
    """Files and batches: upload, pages, progress, outputs, refusals, cancelling, deleting."""
    client = openai.OpenAI(base_url=server.v1, api_key=KEY, max_retries=0)

    def lines(texts):
        body = lambda text: {"model": QUERY, "input": text, "encoding_format": "base64"}
        requests = ({"custom_id": f"text-{i}", "method": "POST", "url": "/v1/embeddings", "body": body(text)} for i, text in enumerate(texts))
        return "".join(json.dumps(request) + "\n" for request in requests).encode()

    def ended(batch):
        end = time.monotonic() + 120
        while batch.status not in ("completed", "failed", "cancelled", "expired"):
            assert time.monotonic() < end, f"the batch is still {batch.status}"
            time.sleep(0.05)
            batch = client.batches.retrieve(batch.id)
        return batch

    def create(file, **more):
        return client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", **more)

    content = lines([*TEXTS, ""])
    file = client.files.create(file=("texts.jsonl", content), purpose="batch")
    assert (file.filename, file.bytes, file.purpose) == ("texts.jsonl", len(content), "batch")
    assert client.files.retrieve(file.id) == file and client.files.content(file.id).read() == content
    batch = ended(create(file, metadata={"job": "nightly"}))
    assert batch.status == "completed" and batch.metadata == {"job": "nightly"}, batch
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (len(TEXTS) + 1, len(TEXTS), 1)
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"text-{i}" for i in range(len(TEXTS))]
    vectors = [base64.b64decode(answer["response"]["body"]["data"][0]["embedding"]) for answer in answers]
    reference.same(vectors, TEXTS, "retrieval.query")
    assert batch.usage.total_tokens == sum(answer["response"]["body"]["usage"]["total_tokens"] for answer in answers)
    (refusal,) = client.files.content(batch.error_file_id).text.splitlines()
    assert json.loads(refusal)["response"]["body"]["error"]["param"] == "input[0]"
    assert batch.id in [listed.id for listed in client.batches.list(limit=1)]
    assert {file.id, batch.output_file_id, batch.error_file_id} <= {listed.id for listed in client.files.list(limit=1)}

    wrong = ended(create(client.files.create(file=("wrong.jsonl", content + b"{\n"), purpose="batch")))
    assert wrong.status == "failed" and [error.line for error in wrong.errors.data] == [len(TEXTS) + 2], wrong
    many = create(client.files.create(file=("many.jsonl", lines(["stork"] * 20_000)), purpose="batch"))
    assert client.batches.cancel(many.id).status == "cancelling"
    assert ended(many).status == "cancelled"
    assert client.files.delete(file.id).deleted
    refused(openai.NotFoundError, "id", lambda: client.files.retrieve(file.id))
    refused(openai.ConflictError, None, lambda: client.batches.cancel(batch.id))
    refused(openai.BadRequestError, "purpose", client.files.create, file=("x.jsonl", b"x"), purpose="vision")


def openai_python_async(server, reference):
    """40 requests at once, of all tasks: the vectors of a quiet server."""

    async def ask():
        async with openai.AsyncOpenAI(base_url=server.v1, api_key=KEY, max_retries=0) as client:
            tasks = ["raw", "retrieval.query", "retrieval.passage", "separation"] * 10
            calls = [client.embeddings.create(model=f"{MODEL}:{task}", input=TEXTS) for task in tasks]
            return zip(tasks, await asyncio.gather(*calls), strict=True)

    for task, answer in asyncio.run(ask()):
        reference.same([row.embedding for row in answer.data], TEXTS, task)


def langchain_openai(server, reference):
    """Token arrays of cl100k, texts, sizes, and a text that it cuts into pieces and averages."""
    address = {"base_url": server.v1, "api_key": KEY, "max_retries": 0}
    reference.same(OpenAIEmbeddings(model=PASSAGE, **address).embed_documents(TEXTS), TEXTS, "retrieval.passage")
    queries = OpenAIEmbeddings(model=QUERY, **address)
    reference.same([queries.embed_query(text) for text in TEXTS[:3]], TEXTS[:3], "retrieval.query")
    reference.same(asyncio.run(queries.aembed_documents(TEXTS)), TEXTS, "retrieval.query")
    as_texts = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, **address)
    reference.same(as_texts.embed_documents(TEXTS), TEXTS)
    reference.same(OpenAIEmbeddings(model=ALIAS, dimensions=64, **address).embed_documents(TEXTS), TEXTS, dimensions=64)

    # 500 tokens of cl100k a piece, weighted by their number.
    pieces = OpenAIEmbeddings(model=MODEL, embedding_ctx_length=500, **address)
    text, cl100k = TEXTS[9] * 2, tiktoken.get_encoding("cl100k_base")
    ids = cl100k.encode(text)
    parts = [ids[start : start + 500] for start in range(0, len(ids), 500)]
    vectors = reference.vectors([cl100k.decode(part) for part in parts])
    mean = np.average([np.frombuffer(v, "<f4") for v in vectors], axis=0, weights=[len(part) for part in parts])
    expected = mean / np.linalg.norm(mean)
    assert len(parts) > 2 and np.allclose(pieces.embed_documents([text])[0], expected, rtol=0, atol=1e-7)

    # Its own pieces, 8191 tokens of cl100k, can be more than 8192 of ours: refused, or cut where asked.
    text = "Störche überwintern südlich der Sahara. " * 700
    assert len(cl100k.encode(text)) > 8191
    client = OpenAIEmbeddings(model=MODEL, **address)
    refused(openai.BadRequestError, "input[0]", client.embed_documents, texts=[text])
    cut = OpenAIEmbeddings(model=MODEL, embedding_ctx_length=20_000, model_kwargs={"extra_body": {"truncate": True}}, **address)
    reference.same(cut.embed_documents([text]), [text], truncate="end")


def langchain_openai_blanks(server, reference):
    """Blank documents, which it sends as empty texts, under each --empty-input."""
    texts = ["", TEXTS[0], ""]

    def vectors(served):
        client = OpenAIEmbeddings(model=MODEL, base_url=served.v1, api_key=KEY, max_retries=0)
        return client.embed_documents(texts)

    try:
        vectors(server)
        raise AssertionError("an empty text is not refused")
    except openai.BadRequestError as error:
        assert "is empty" in error.message, error.message
    with Served(server.program, server.model, "--empty-input", "embed") as served:
        reference.same(vectors(served), texts)
    with Served(server.program, server.model, "--empty-input", "zero") as served:
        blank, stork, other = vectors(served)
        reference.same([stork], TEXTS[:1])
        assert len(blank) == len(stork) and not any(blank + other)


def llama_index_openai(server, reference):
    """Queries and documents, by model id; it turns line breaks into blanks itself."""
    address = {"api_base": server.v1, "api_key": KEY, "max_retries": 0}
    passages = OpenAIEmbedding(model_name=PASSAGE, **address)
    reference.same(passages.get_text_embedding_batch(TEXTS), TEXTS, "retrieval.passage")
    reference.same([passages.get_text_embedding(TEXTS[1])], TEXTS[1:2], "retrieval.passage")
    queries = OpenAIEmbedding(model_name=QUERY, **address)
    reference.same([queries.get_query_embedding(text) for text in TEXTS[:3]], TEXTS[:3], "retrieval.query")
    by_field = OpenAIEmbedding(model_name=MODEL, additional_kwargs={"extra_body": {"task": "separation"}}, **address)
    reference.same(by_field.get_text_embedding_batch(TEXTS), TEXTS, "separation")
    cut = OpenAIEmbedding(model=ALIAS, dimensions=64, **address)
    reference.same(cut.get_text_embedding_batch(TEXTS), TEXTS, dimensions=64)


def haystack_openai(server, reference):
    """A text and documents; usage is added up."""
    address = {"api_base_url": server.v1, "api_key": Secret.from_token(KEY), "max_retries": 0}
    text = OpenAITextEmbedder(model=QUERY, **address).run(TEXTS[0])
    reference.same([text["embedding"]], TEXTS[:1], "retrieval.query")
    embedder = OpenAIDocumentEmbedder(model=PASSAGE, batch_size=3, progress_bar=False, raise_on_failure=True, **address)
    answer = embedder.run([Document(content=text) for text in TEXTS])
    reference.same([document.embedding for document in answer["documents"]], TEXTS, "retrieval.passage")
    assert answer["meta"]["usage"]["prompt_tokens"] > len(TEXTS), answer["meta"]


def chroma_openai(server, reference):
    """Its embedding function, with `dimensions` where the model's name allows it."""
    warnings.simplefilter("ignore", DeprecationWarning)  # about keys in arguments
    function = OpenAIEmbeddingFunction(api_key=KEY, api_base=server.v1, model_name=PASSAGE)
    reference.same(function(TEXTS), TEXTS, "retrieval.passage")
    cut = OpenAIEmbeddingFunction(api_key=KEY, api_base=server.v1, model_name=ALIAS, dimensions=64)
    reference.same(cut(TEXTS), TEXTS, dimensions=64)


CLIENTS = [
    ("openai", "/v1/embeddings", openai_python),
    ("openai, files and batches", "/v1/batches", openai_batches),
    ("openai, async", "/v1/embeddings", openai_python_async),
    ("langchain-openai", "/v1/embeddings", langchain_openai),
    ("langchain-openai, blanks", "/v1/embeddings", langchain_openai_blanks),
    ("llama-index-embeddings-openai", "/v1/embeddings", llama_index_openai),
    ("haystack-ai, OpenAI", "/v1/embeddings", haystack_openai),
    ("chromadb, OpenAI", "/v1/embeddings", chroma_openai),
]
