"""A random checkpoint with the dimensions of jina-embeddings-v3: 572 M parameters, bf16, five adapters, original layout."""
import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata"))
import reference as ref  # noqa: E402

SEED = 11


def ensure(folder, tokenizer=None):
    """Writes the checkpoint into `folder` unless it is there; `tokenizer` is a tokenizer.json to put beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    if not weights.exists():
        print(f"writing {weights} (1.1 GB) ...", file=sys.stderr)
        tensors = {name: t.bfloat16() for name, t in ref.random_weights(ref.FULL, SEED).items()}
        partial = weights.with_suffix(".partial")
        save_file(tensors, str(partial), metadata={"format": "pt"})
        partial.rename(weights)
        (folder / "config.json").write_text(json.dumps(ref.original_config(ref.FULL), indent=2) + "\n")
    if tokenizer:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder


def reference_model(folder, task):
    """transformers' float32 model with `task`'s LoRA merged in float32, SDPA attention."""
    weights = load_file(folder / "model.safetensors")  # bf16; `merged` widens it tensor by tensor
    return ref.build_model(ref.FULL, ref.merged(ref.FULL, weights, task), attention="sdpa")
