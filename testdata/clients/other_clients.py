"""Clients of Cohere and of Text Embeddings Inference, LiteLLM as a library and as a proxy, and openai-node."""
import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import cohere
import numpy as np
import openai
import yaml
from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer
from huggingface_hub import InferenceClient
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from served import KEY, MODEL, TEXTS, work_folder


class Skipped(Exception):
    """This machine lacks what the client needs."""


def cohere_sdk(server, reference):
    """Version 2 of its API: input types, float, sizes; lists of types."""
    client = cohere.ClientV2(KEY, base_url=server.url)

    def vectors(**request):
        return client.embed(model=MODEL, texts=TEXTS, **request).embeddings

    for input_type, task in (
        ("search_query", "retrieval.query"),
        ("search_document", "retrieval.passage"),
        ("classification", "classification"),
        ("clustering", "separation"),
    ):
        found = vectors(input_type=input_type, embedding_types=["float"])
        reference.same(found.float_, TEXTS, task)
    found = vectors(input_type="search_query", embedding_types=["float", "int8", "ubinary"], output_dimension=64)
    reference.same(found.float_, TEXTS, "retrieval.query", dimensions=64)
    assert len(found.int8[0]) == 64 and len(found.ubinary[0]) == 8
    in_base64 = vectors(input_type="search_query", embedding_types=["base64"])
    reference.equal([base64.b64decode(v) for v in in_base64.base64], reference.vectors(TEXTS, "retrieval.query"))


def huggingface_hub(server, reference):
    """InferenceClient, as it is pointed at a server of Text Embeddings Inference."""
    client = InferenceClient(model=f"{server.url}/embed", token=KEY)
    reference.same(client.feature_extraction(TEXTS), TEXTS)
    reference.same(client.feature_extraction(TEXTS[0]), TEXTS[:1])
    passages = client.feature_extraction(TEXTS, prompt_name="retrieval.passage")
    reference.same(passages, TEXTS, "retrieval.passage")
    reference.same(client.feature_extraction(TEXTS, normalize=False), TEXTS, normalized=False)
    reference.same(client.feature_extraction(TEXTS, truncate=True, dimensions=64), TEXTS, dimensions=64)


def huggingface_hub_similarity(server, reference):
    """InferenceClient's comparison of one sentence with others."""
    client = InferenceClient(model=f"{server.url}/similarity", token=KEY)
    found = client.sentence_similarity(TEXTS[0], TEXTS)
    one, *others = (np.frombuffer(v, "<f4").astype(float) for v in reference.vectors([TEXTS[0], *TEXTS]))
    assert np.allclose(found, [one @ other for other in others], rtol=0, atol=1e-6), found


def huggingface_hub_root(server, reference):
    """InferenceClient with nothing but the address, as LangChain's and Haystack's TEI classes use it."""
    client = InferenceClient(model=f"{server.url}/", token=KEY)
    reference.same(client.feature_extraction(TEXTS), TEXTS)


def llama_index_tei(server, reference):
    """LlamaIndex's client of Text Embeddings Inference, which strips texts."""
    client = TextEmbeddingsInference(model_name=MODEL, base_url=server.url, auth_token=KEY)
    texts = [text.strip() for text in TEXTS if text.strip()]
    reference.same(client.get_text_embedding_batch(texts), texts)


def chroma_tei(server, reference):
    """chromadb's function for a server of Text Embeddings Inference."""
    os.environ["QUINTET_CLIENTS_KEY"] = KEY
    function = HuggingFaceEmbeddingServer(url=f"{server.url}/embed", api_key_env_var="QUINTET_CLIENTS_KEY")
    reference.same(function(TEXTS), TEXTS)


def litellm_library(server, reference):
    """LiteLLM's call, through its OpenAI and its Jina side."""
    import litellm  # slow to import, and only here

    litellm.suppress_debug_info = True
    for provider, options in (("openai", {"encoding_format": "float"}), ("jina_ai", {"task": "retrieval.query"})):
        answer = litellm.embedding(
            model=f"{provider}/{MODEL}:retrieval.query", input=TEXTS, api_base=server.v1, api_key=KEY, **options
        )
        reference.same([row["embedding"] for row in answer.data], TEXTS, "retrieval.query")


def litellm_rerank(server, reference):
    """LiteLLM's call to a server of Text Embeddings Inference: `texts`, and a bare list back."""
    import litellm

    litellm.suppress_debug_info = True
    answer = litellm.rerank(model=f"huggingface/{MODEL}", query=TEXTS[0], documents=TEXTS, api_base=server.url, api_key=KEY)
    query = np.frombuffer(reference.vectors(TEXTS[:1], "retrieval.query")[0], "<f4").astype(float)
    cosines = [query @ np.frombuffer(v, "<f4") for v in reference.vectors(TEXTS, "retrieval.passage")]
    found = [(rank["index"], rank["relevance_score"]) for rank in answer.results]
    assert [index for index, _ in found] == sorted(range(len(TEXTS)), key=lambda i: -cosines[i]), found
    assert all(abs(score - (1 + cosines[index]) / 2) < 1e-6 for index, score in found), found


def litellm_proxy(server, reference):
    """LiteLLM in front: the model id names the task, for clients and gateways that know no such field; one kept wins."""
    with proxy(server) as (url, key):
        client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)

        def vectors(model, **request):
            return [row.embedding for row in client.embeddings.create(model=model, input=TEXTS, **request).data]

        reference.same(vectors(f"{MODEL}:retrieval.query"), TEXTS, "retrieval.query")
        reference.same(vectors(f"{MODEL}:retrieval.query", encoding_format="float"), TEXTS, "retrieval.query")
        reference.same(vectors("passages"), TEXTS, "retrieval.passage")
        reference.same(vectors("passages", extra_body={"task": "separation"}), TEXTS, "separation")


@contextmanager
def proxy(server):
    """A LiteLLM proxy that hands `mini:…` on as it is, and knows one task by a name of its own."""
    folder, port, key = work_folder("litellm"), free_port(), f"sk-{secrets.token_hex(32)}"
    upstream = {"api_base": server.v1, "api_key": KEY}
    config = {
        "model_list": [
            {"model_name": f"{MODEL}:*", "litellm_params": {"model": f"openai/{MODEL}:*", **upstream}},
            {"model_name": "passages", "litellm_params": {"model": f"openai/{MODEL}:retrieval.passage", **upstream}},
        ]
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [Path(sys.executable).with_name("litellm"), "--config", folder / "config.yaml", "--host", "127.0.0.1"]
    environment = os.environ | {"LITELLM_MASTER_KEY": key}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{url}/health/liveliness")
                break
            except (urllib.error.URLError, ConnectionError):
                ended = process.poll() is not None
                assert not ended and time.monotonic() < end, f"LiteLLM did not start:\n{(folder / 'log').read_text()[-2000:]}"
                time.sleep(0.2)
        yield url, key
    finally:
        process.terminate()
        process.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def openai_node(server, reference):
    """openai-node: base64 (its default), float, sizes, tasks."""
    npm = shutil.which("npm")
    if not (npm and shutil.which("node")):
        raise Skipped("node and npm are not installed")
    source, folder = Path(__file__).parent / "node", work_folder("clients-node")
    for file in source.iterdir():
        shutil.copy(file, folder)
    installed = folder / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (source / "package-lock.json").stat().st_mtime:
        subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    command = ["node", folder / "check.mjs", server.v1, KEY]
    asked = {"texts": TEXTS, "model": MODEL}
    answer = subprocess.run(command, input=json.dumps(asked).encode(), stdout=subprocess.PIPE, check=True)
    found = {name: [base64.b64decode(v) for v in vectors] for name, vectors in json.loads(answer.stdout).items()}
    reference.same(found["default"], TEXTS)
    reference.same(found["float"], TEXTS)
    reference.same(found["task"], TEXTS, "retrieval.query")
    reference.same(found["dimensions"], TEXTS, dimensions=64)


CLIENTS = [
    ("openai-node", "/v1/embeddings", openai_node),
    ("litellm", "/v1/embeddings", litellm_library),
    ("litellm, proxy", "/v1/embeddings", litellm_proxy),
    ("litellm, TEI rerank", "/rerank", litellm_rerank),
    ("cohere", "/v2/embed", cohere_sdk),
    ("huggingface_hub", "/embed", huggingface_hub),
    ("huggingface_hub, similarity", "/similarity", huggingface_hub_similarity),
    ("huggingface_hub, address alone", "/", huggingface_hub_root),
    ("llama-index-embeddings-text-embeddings-inference", "/embed", llama_index_tei),
    ("chromadb, TEI", "/embed", chroma_tei),
]
