"""A random checkpoint with the dimensions of jina-embeddings-v3: 572 M parameters, bf16, five adapters, original layout."""
import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata"))
import reference as ref  # noqa: E402

SEED = 11


OUTLIER_CHANNELS, OUTLIER_GAIN = (137, 402, 655, 901), 10.0


def plant_outliers(weights):
    """A few channels ten times as large after every LayerNorm of the encoder, the same ones in all layers: what trained
    encoders of this family have, and what 8-bit activations suffer from. Not after the last one: they would fill the
    vectors, and any two would be alike."""
    last = f"layers.{ref.FULL.layers - 1}.norm2."
    for name, tensor in weights.items():
        if (".norm1." in name or ".norm2." in name) and last not in name:
            tensor[list(OUTLIER_CHANNELS)] *= OUTLIER_GAIN


def ensure(folder, tokenizer=None, outliers=False):
    """Writes the checkpoint into `folder` unless it is there; `tokenizer` is a tokenizer.json to put beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    if not weights.exists():
        print(f"writing {weights} (1.1 GB) ...", file=sys.stderr)
        tensors = ref.random_weights(ref.FULL, SEED)
        if outliers:
            plant_outliers(tensors)
        tensors = {name: t.bfloat16() for name, t in tensors.items()}
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
