"""The exported folder: config.json, model.safetensors in jinaai's stacked layout and bf16, tokenizer.json."""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .model import Mini
from .settings import INSTRUCTIONS, TASKS, Shape

#: Largest size of the three files together.
MOST_BYTES = 28_000_000

#: Where the code lies that can run the folder in `transformers`.
REMOTE_CODE = "jinaai/xlm-roberta-flash-implementation"


def config(shape: Shape) -> dict:
    """The fields of the original's config.json with this model's numbers."""
    return {
        "architectures": ["XLMRobertaLoRA"],
        "attention_probs_dropout_prob": 0.1,
        "auto_map": {
            "AutoConfig": f"{REMOTE_CODE}--configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": f"{REMOTE_CODE}--modeling_lora.XLMRobertaLoRA",
            "AutoModelForMaskedLM": f"{REMOTE_CODE}--modeling_xlm_roberta.XLMRobertaForMaskedLM",
            "AutoModelForPreTraining": f"{REMOTE_CODE}--modeling_xlm_roberta.XLMRobertaForPreTraining",
        },
        "bos_token_id": 0,
        "classifier_dropout": None,
        "emb_pooler": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "layer_norm_eps": shape.layer_norm_eps,
        "load_trained_adapters": True,
        "lora_adaptations": TASKS,
        "lora_alpha": shape.lora_alpha,
        "lora_dropout_p": 0.0,
        "lora_main_params_trainable": False,
        "lora_rank": shape.lora_rank,
        "matryoshka_dimensions": shape.matryoshka_dimensions,
        "max_position_embeddings": shape.max_position_embeddings,
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_hidden_layers,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "rotary_emb_base": shape.rotary_emb_base,
        "task_instructions": INSTRUCTIONS,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.30.2",
        "truncate_dim": None,
        "type_vocab_size": 1,
        "use_cache": True,
        "use_flash_attn": True,
        "vocab_size": shape.vocab_size,
    }


def file_name(parameter: str) -> str:
    """`layers.0.Wqkv.lora_A` -> `roberta.encoder.layers.0.mixer.Wqkv.parametrizations.weight.0.lora_A`."""
    *path, kind = parameter.split(".")
    if path[0] == "layers":
        block = {"Wqkv": "mixer.Wqkv", "out_proj": "mixer.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
        path = ["encoder", "layers", path[1], block.get(path[2], path[2])]
    elif path[0] in ("word_embeddings", "token_type_embeddings"):
        path = ["embeddings", path[0]]
    elif path[0] == "pooler":
        path = ["pooler", "dense"]
    if kind == "original":
        kind = "parametrizations.weight.original"
    elif kind.startswith("lora_"):
        kind = f"parametrizations.weight.0.{kind}"
    return ".".join(["roberta", *path, kind])


def write(model: Mini, tokenizer: Path, folder: Path) -> dict:
    """Writes the three files; gives their SHA-256 and sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        file_name(name): value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in model.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config(model.shape), indent=2) + "\n", encoding="utf8")
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    files = {}
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        content = (folder / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    total = sum(file["bytes"] for file in files.values())
    if total > MOST_BYTES:
        raise ValueError(f"the export has {total} bytes, at most {MOST_BYTES} are allowed")
    return files


def load_model(folder: Path) -> Mini:
    """The exported weights, widened to f32."""
    document = json.loads((folder / "config.json").read_text(encoding="utf8"))
    names = Shape.__dataclass_fields__
    model = Mini(Shape(**{name: value for name, value in document.items() if name in names}))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensors[file_name(name)].float() for name, _ in model.named_parameters()})
    return model
