#!/usr/bin/env python3
"""A peer for load.py: what people put around transformers' own model. FastAPI, one forward pass at a time.

    python bench/load/peer.py --port 8090 --threads 1

Serves mini's weights at /v1/embeddings with OpenAI's fields and `task`: one model per task with its adapter merged, a
batch per request, sorted by length and padded in parts of 32, as sentence-transformers does it. Needs torch,
transformers, safetensors, tokenizers, numpy, fastapi and uvicorn.
"""
import argparse
import base64
import json
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "testdata"))
import numpy as np  # noqa: E402
import reference as ref  # noqa: E402
import torch  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

MODEL = ROOT / "crates" / "mini" / "model"
PADDED_TOGETHER = 32  # the default of sentence-transformers
PAD_ID = 1


def shape():
    config = json.loads((MODEL / "config.json").read_text())
    return ref.Shape(layers=config["num_hidden_layers"], hidden=config["hidden_size"], heads=config["num_attention_heads"],
                     ffn=config["intermediate_size"], vocab=config["vocab_size"], rank=config["lora_rank"],
                     alpha=config["lora_alpha"], theta=config["rotary_emb_base"], eps=config["layer_norm_eps"])


class Embedder:
    def __init__(self):
        weights = {name: tensor.float() for name, tensor in load_file(MODEL / "model.safetensors").items()}
        tasks = {"raw": ref.NONE} | {task: task for task in ref.TASKS}
        self.models = {name: ref.build_model(shape(), ref.merged(shape(), weights, task), attention="sdpa")
                       for name, task in tasks.items()}
        self.tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        self.turn = threading.Lock()

    def embed(self, texts, task):
        """Vectors of length 1, and tokens."""
        instruction = ref.INSTRUCTIONS.get(task, "")
        rows = [encoded.ids for encoded in self.tokenizer.encode_batch([instruction + text for text in texts])]
        vectors, order = [None] * len(rows), sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        with self.turn, torch.inference_mode():
            for start in range(0, len(order), PADDED_TOGETHER):
                part = order[start:start + PADDED_TOGETHER]
                longest = max(len(rows[i]) for i in part)
                ids = torch.tensor([rows[i] + [PAD_ID] * (longest - len(rows[i])) for i in part])
                mask = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in part])
                hidden = self.models[task](input_ids=ids, attention_mask=mask).last_hidden_state
                sums = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                for i, vector in zip(part, ref.l2(sums).numpy()):
                    vectors[i] = vector
        return vectors, sum(map(len, rows))


class Request(BaseModel):
    input: list[str]
    task: str = "raw"
    encoding_format: str = "float"


def app(embedder):
    service = FastAPI()

    @service.get("/health")
    def health():
        return {}

    @service.post("/v1/embeddings")  # not async: it runs on FastAPI's threads, beside the one that reads requests
    def embeddings(request: Request):
        vectors, tokens = embedder.embed(request.input, request.task)

        def written(vector):
            if request.encoding_format == "base64":
                return base64.b64encode(vector.astype(np.float32).tobytes()).decode()
            return vector.tolist()

        data = [{"object": "embedding", "index": i, "embedding": written(v)} for i, v in enumerate(vectors)]
        return {"object": "list", "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}

    return service


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    uvicorn.run(app(Embedder()), host="127.0.0.1", port=args.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
