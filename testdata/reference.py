"""The reference side of the tests: random jina-embeddings-v3 weights, the layouts they are stored in, and
transformers' own model built from them.

Weights live in memory under the names of the ORIGINAL repository (torch parametrization names, LoRA stacked
[5, ...]), as float32 tensors. `merged` adds one task's LoRA in float32, `build_model` loads the result into
`transformers.JinaEmbeddingsV3Model`. Used by make_checkpoints.py, make_goldens.py, sensitivity.py and the
scripts in bench/.
"""
import math
import zlib
from dataclasses import dataclass, field

import torch

TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
NONE = "none"  # the base model without adapter
INSTRUCTIONS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
    "separation": "",
    "classification": "",
    "text-matching": "",
}
ADAPTER_FOLDER = {t: t.replace(".", "_").replace("-", "_") for t in TASKS}
P = ".parametrizations.weight."


@dataclass(frozen=True)
class Shape:
    """Dimensions of a checkpoint; field names follow config.json where it has one."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    matryoshka: list[int] = field(default_factory=list)
    rank: int = 4
    alpha: int = 1
    theta: float = 20000.0
    eps: float = 1e-5
    max_positions: int = 8194


# heads of 64 as in the released model; every other dimension as small as it can be and still differ from the rest
TINY = Shape(layers=2, hidden=128, heads=2, ffn=64, vocab=320, matryoshka=[16, 32, 64, 128])
FULL = Shape(layers=24, hidden=1024, heads=16, ffn=4096, vocab=250002, matryoshka=[32, 64, 128, 256, 512, 768, 1024])


def modules(s):
    """(path, rows, columns, is_embedding) of each module that carries LoRA."""
    yield "roberta.embeddings.word_embeddings", s.vocab, s.hidden, True
    yield "roberta.embeddings.token_type_embeddings", 1, s.hidden, True
    for i in range(s.layers):
        layer = f"roberta.encoder.layers.{i}."
        yield layer + "mixer.Wqkv", 3 * s.hidden, s.hidden, False
        yield layer + "mixer.out_proj", s.hidden, s.hidden, False
        yield layer + "mlp.fc1", s.ffn, s.hidden, False
        yield layer + "mlp.fc2", s.hidden, s.ffn, False
    yield "roberta.pooler.dense", s.hidden, s.hidden, False


def layer_norms(s):
    yield "roberta.emb_ln"
    for i in range(s.layers):
        yield f"roberta.encoder.layers.{i}.norm1"
        yield f"roberta.encoder.layers.{i}.norm2"


def round_weight(t):
    """Nearest value that bf16 holds and f16 holds too: bf16, and zero where f16 would be subnormal."""
    t = t.to(torch.bfloat16).float()
    t[t.abs() < 2.0**-14] = 0.0
    assert t.abs().max() < 65504
    return t


def random_weights(s, seed):
    """Weights of the original layout, exact in bf16 and f16.

    Deviations scale with fan-in so that attention is peaked and not uniform; embedding rows are small (variance
    near 1e-3, where a wrong LayerNorm eps shows), fc1 is large (where tanh and erf GELU differ), and a few
    LayerNorm channels are outliers, as in trained models.
    """
    def randn(name, shape, std):
        g = torch.Generator().manual_seed((zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1)) & 0x7FFFFFFF)
        return torch.empty(shape).normal_(0.0, std, generator=g)

    gain = {"Wqkv": 1.4, "out_proj": 1.0, "fc1": 1.6, "fc2": 1.6, "dense": 1.0}
    n, w = len(TASKS), {}
    for path, rows, columns, is_embedding in modules(s):
        if is_embedding:  # stored [rows, H]; A [5, rows, r], B [5, r, H], delta = A @ B
            shapes, stds = ((n, rows, s.rank), (n, s.rank, columns)), (0.2, 0.2)
            std = 0.03
        else:  # stored [out, in]; A [5, r, in], B [5, out, r], delta = B @ A
            shapes, stds = ((n, s.rank, columns), (n, rows, s.rank)), (1.0 / math.sqrt(columns), 0.7)
            std = gain[path.rsplit(".", 1)[1]] / math.sqrt(columns)
            w[path + ".bias"] = round_weight(randn(path + ".bias", (rows,), 0.05))
        w[path + P + "original"] = round_weight(randn(path + ".weight", (rows, columns), std))
        for letter, shape, lora_std in zip("AB", shapes, stds):
            w[path + P + f"0.lora_{letter}"] = round_weight(randn(path + letter, shape, lora_std))
    for path in layer_norms(s):
        weight, bias = 1.0 + randn(path + ".weight", (s.hidden,), 0.12), randn(path + ".bias", (s.hidden,), 0.08)
        k = max(1, s.hidden // 128)
        outliers = randn(path + ".outliers", (s.hidden,), 1.0).abs().topk(2 * k).indices
        weight[outliers[:k]] *= 4.0
        bias[outliers[k:]] += 1.5
        w[path + ".weight"], w[path + ".bias"] = round_weight(weight), round_weight(bias)
    return w


def original_config(s, dtype="bfloat16"):
    """config.json of the original repository, with this shape."""
    return {
        "_name_or_path": "random-reference",
        "architectures": ["XLMRobertaLoRA"],
        "attention_probs_dropout_prob": 0.1,
        "auto_map": {
            "AutoConfig": "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA",
        },
        "bos_token_id": 0,
        "classifier_dropout": None,
        "emb_pooler": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": s.hidden,
        "initializer_range": 0.02,
        "intermediate_size": s.ffn,
        "layer_norm_eps": s.eps,
        "load_trained_adapters": True,
        "lora_adaptations": TASKS,
        "lora_alpha": s.alpha,
        "lora_dropout_p": 0.0,
        "lora_main_params_trainable": False,
        "lora_rank": s.rank,
        "matryoshka_dimensions": s.matryoshka,
        "max_position_embeddings": s.max_positions,
        "num_attention_heads": s.heads,
        "num_hidden_layers": s.layers,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "rotary_emb_base": s.theta,
        "task_instructions": INSTRUCTIONS,
        "torch_dtype": dtype,
        "transformers_version": "4.30.2",
        "truncate_dim": None,
        "type_vocab_size": 1,
        "use_cache": True,
        "use_flash_attn": True,
        "vocab_size": s.vocab,
    }


def hf_config(s):
    """config.json of the `-hf` repository: it has no rope field, readers fall back on 20000."""
    config = original_config(s) | {"architectures": ["JinaEmbeddingsV3Model"], "model_type": "jina_embeddings_v3"}
    del config["auto_map"]
    return config


def base_tensors(w):
    """Original names without LoRA: `<module>.parametrizations.weight.original` becomes `<module>.weight`."""
    return {n.replace(P + "original", ".weight"): t for n, t in w.items() if ".lora_" not in n}


def peft_tensors(s, w, task):
    """One task's adapter under the hybrid names of the `-hf` repository."""
    i, out = TASKS.index(task), {}
    for path, _, _, is_embedding in modules(s):
        a, b = w[path + P + "0.lora_A"][i], w[path + P + "0.lora_B"][i]
        if is_embedding:  # PEFT: embedding_A [r, rows], embedding_B [H, r], delta = (B @ A).T
            out[path + ".lora_embedding_A"], out[path + ".lora_embedding_B"] = a.T, b.T
        elif path.endswith("mixer.Wqkv"):  # q, k and v share A; B is cut in three
            stem = path.removesuffix("mixer.Wqkv") + "self_attn."
            for j, letter in enumerate("qkv"):
                out[f"{stem}{letter}_proj.lora_A.weight"] = a
                out[f"{stem}{letter}_proj.lora_B.weight"] = b[j * s.hidden : (j + 1) * s.hidden]
        else:
            out[path + ".lora_A.weight"], out[path + ".lora_B.weight"] = a, b
    return out


def merged(s, w, task, dtype=torch.float32, scale=None):
    """Base names with `task`'s LoRA added in `dtype`: W + (alpha / rank) * delta. `none` is the base itself."""
    scale = s.alpha / s.rank if scale is None else scale
    out = {n: t.to(dtype) for n, t in w.items() if P not in n}
    for path, _, _, is_embedding in modules(s):
        weight = w[path + P + "original"].to(dtype)
        if task != NONE:
            a, b = (w[path + P + f"0.lora_{x}"][TASKS.index(task)].to(dtype) for x in "AB")
            weight = weight + ((a @ b) if is_embedding else (b @ a)) * scale
        out[path + ".weight"] = weight
    return out


def native_names(tensors):
    """Base names -> transformers' in-memory names, Wqkv cut in three."""
    renames = (("emb_ln", "embeddings.LayerNorm"), ("encoder.layers", "layers"), ("mixer.out_proj", "self_attn.o_proj"),
               ("norm1", "post_attention_layernorm"), ("norm2", "post_mlp_layernorm"))
    out = {}
    for name, t in tensors.items():
        name = name.removeprefix("roberta.")
        for old, new in renames:
            name = name.replace(old, new)
        if ".mixer.Wqkv." in name:
            for letter, part in zip("qkv", t.chunk(3)):
                out[name.replace("mixer.Wqkv", f"self_attn.{letter}_proj")] = part
        else:
            out[name] = t
    return out


def build_model(s, tensors, dtype=torch.float32, attention="eager"):
    """transformers' JinaEmbeddingsV3Model holding `tensors` (base names, LoRA already merged)."""
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    config = JinaEmbeddingsV3Config(
        vocab_size=s.vocab, hidden_size=s.hidden, num_hidden_layers=s.layers, num_attention_heads=s.heads,
        intermediate_size=s.ffn, layer_norm_eps=s.eps, max_position_embeddings=s.max_positions,
        rope_parameters={"rope_theta": s.theta, "rope_type": "default"}, attn_implementation=attention)
    with torch.device("meta"):
        model = JinaEmbeddingsV3Model(config)
    model.load_state_dict(native_names({n: t.to(dtype) for n, t in tensors.items()}), strict=True, assign=True)
    # buffers are not in a state dict; built on the meta device they have no values yet
    inv_freq, _ = model.rotary_emb.compute_default_rope_parameters(config)
    model.rotary_emb.inv_freq = inv_freq.clone()
    model.rotary_emb.original_inv_freq = inv_freq.clone()
    model.embeddings.position_ids = torch.arange(s.max_positions).expand((1, -1))
    model.embeddings.token_type_ids = torch.zeros((1, s.max_positions), dtype=torch.long)
    return model.eval()


@torch.no_grad()
def hidden_states(model, ids):
    """[tokens, hidden] of one sequence of token ids."""
    ids = torch.as_tensor(ids, dtype=torch.long)[None]
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]


def l2(x):
    return torch.nn.functional.normalize(x, p=2, dim=-1)  # eps 1e-12
