#!/usr/bin/env python3
"""What each likely mistake costs on the test checkpoint: can the goldens see it?

An independent forward pass with a switch for each mistake (stacked LoRA read from original/, fused Wqkv, rotary, post
LayerNorm written out) against goldens/sequences.safetensors. Prints a markdown table of the largest component
difference over all tasks and the sequences of up to 130 tokens; exit 1 if a mistake stays below 3e-5 on both hidden
states and normalized vectors, or if the pass without mistake is not within it.

    python sensitivity.py
"""
import math
import sys
from dataclasses import dataclass

import torch
from safetensors.torch import load_file

import reference as ref
from make_goldens import GOLDENS, LENGTHS, load_weights
from reference import NONE, TASKS, TINY, l2

VISIBLE = 3e-5
P = ref.P


@dataclass(frozen=True)
class Rules:
    """The forward pass as specified; each field is a place to go wrong."""

    theta: float = 20000.0
    interleaved: bool = False
    rotate_values: bool = False
    rotate: bool = True
    gelu: str = "none"
    eps: float = 1e-5
    causal: bool = False
    scores_scale: float = 64**-0.5
    heads_first: bool = False  # Wqkv seen as (heads, 3, 64) and not as (3, heads, 64)
    padding: int = 0  # padding tokens attended to
    lora_scale: float = TINY.alpha / TINY.rank
    without_lora: str = ""  # modules whose LoRA is forgotten
    shifted_task: int = 0
    merge_dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    activation_dtype: torch.dtype = torch.float32
    token_type: bool = True
    mean_from: int = 0  # tokens left out of the mean at either end
    mean_to: int = 0
    first_token: bool = False


MISTAKES = {
    "as specified": Rules(),
    "RoPE base 10000": Rules(theta=10000.0),
    "interleaved RoPE": Rules(interleaved=True),
    "no RoPE": Rules(rotate=False),
    "RoPE on v too": Rules(rotate_values=True),
    "tanh GELU": Rules(gelu="tanh"),
    "LayerNorm eps 1e-12": Rules(eps=1e-12),
    "causal attention": Rules(causal=True),
    "scores not divided by sqrt(64)": Rules(scores_scale=1.0),
    "Wqkv read as (heads, 3, 64)": Rules(heads_first=True),
    "no token-type row": Rules(token_type=False),
    "no token-type LoRA": Rules(without_lora="token_type_embeddings"),
    "no word-embedding LoRA": Rules(without_lora="word_embeddings"),
    "no Wqkv LoRA": Rules(without_lora="Wqkv"),
    "no out_proj LoRA": Rules(without_lora="out_proj"),
    "no fc1 LoRA": Rules(without_lora="fc1"),
    "no fc2 LoRA": Rules(without_lora="fc2"),
    "LoRA scale 1 instead of 1/4": Rules(lora_scale=1.0),
    "the next task's LoRA": Rules(shifted_task=1),
    "padding attended": Rules(padding=4),
    "`<s>`, `</s>` left out of the mean": Rules(mean_from=1, mean_to=1),
    "first token instead of the mean": Rules(first_token=True),
    "merged in f32, weights then rounded to bf16": Rules(weight_dtype=torch.bfloat16),
    "merged in bf16": Rules(merge_dtype=torch.bfloat16),
    "hidden states rounded to bf16 after each layer": Rules(activation_dtype=torch.bfloat16),
    "hidden states rounded to f16 after each layer": Rules(activation_dtype=torch.float16),
}
ONLY_VECTORS = {"`<s>`, `</s>` left out of the mean", "first token instead of the mean"}


def effective_weight(w, path, task, rules):
    weight = w[path + P + "original"].to(rules.merge_dtype)
    forgotten = rules.without_lora and path.endswith(rules.without_lora)
    if task != NONE and not forgotten:
        i = (TASKS.index(task) + rules.shifted_task) % len(TASKS)
        a, b = (w[path + P + f"0.lora_{x}"][i].to(rules.merge_dtype) for x in "AB")
        weight = weight + (a @ b if "embeddings" in path else b @ a) * rules.lora_scale
    return weight.to(rules.weight_dtype).float()


def layer_norm(x, w, path, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps) * w[path + ".weight"] + w[path + ".bias"]


def rotate(x, rules):
    """x is [tokens, heads, 64]."""
    half = x.shape[-1] // 2
    inv_freq = 1.0 / rules.theta ** (torch.arange(half).float() / half)
    angle = torch.outer(torch.arange(len(x)).float(), inv_freq)[:, None]
    cos, sin = angle.cos(), angle.sin()
    if rules.interleaved:
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def forward(w, ids, task, rules):
    """[tokens, hidden]."""
    def linear(x, path):
        return x @ effective_weight(w, path, task, rules).T + w[path + ".bias"]

    tokens = len(ids)
    ids = torch.cat([ids, torch.ones(rules.padding, dtype=torch.long)])
    x = effective_weight(w, "roberta.embeddings.word_embeddings", task, rules)[ids]
    if rules.token_type:
        x = x + effective_weight(w, "roberta.embeddings.token_type_embeddings", task, rules)[0]
    x = layer_norm(x, w, "roberta.emb_ln", rules.eps)
    for i in range(TINY.layers):
        layer = f"roberta.encoder.layers.{i}."
        qkv = linear(x, layer + "mixer.Wqkv")
        if rules.heads_first:
            q, k, v = qkv.view(len(ids), TINY.heads, 3, -1).unbind(2)
        else:
            q, k, v = qkv.view(len(ids), 3, TINY.heads, -1).unbind(1)
        if rules.rotate:
            q, k = rotate(q, rules), rotate(k, rules)
        if rules.rotate_values:
            v = rotate(v, rules)
        scores = torch.einsum("qhd,khd->hqk", q, k) * rules.scores_scale
        if rules.causal:
            scores = scores + torch.full(scores.shape[1:], -math.inf).triu(1)
        context = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(len(ids), -1)
        x = layer_norm(x + linear(context, layer + "mixer.out_proj"), w, layer + "norm1", rules.eps)
        up = torch.nn.functional.gelu(linear(x, layer + "mlp.fc1"), approximate=rules.gelu)
        x = layer_norm(x + linear(up, layer + "mlp.fc2"), w, layer + "norm2", rules.eps)
        x = x.to(rules.activation_dtype).float()
    return x[:tokens]


def pool(hidden, rules):
    if rules.first_token:
        return hidden[0]
    kept = hidden[rules.mean_from : len(hidden) - rules.mean_to]
    return (kept if len(kept) else hidden).mean(0)


def cost(w, goldens, rules):
    """(hidden states, normalized vectors, 1 - cosine), the worst over tasks and sequences."""
    hidden_diff = vector_diff = distance = 0.0
    for task in [NONE] + TASKS:
        for name in (f"len{n}" for n in LENGTHS if n <= 130):
            hidden = forward(w, goldens[f"seq/{name}/input_ids"], task, rules)
            want = goldens.get(f"seq/{name}/{task}/last_hidden_state")
            if want is None:
                want, hidden_got = goldens[f"seq/{name}/{task}/last_hidden_state_rows"], hidden[goldens[f"seq/{name}/hidden_rows"]]
            else:
                hidden_got = hidden
            vector, want_vector = l2(pool(hidden, rules)), goldens[f"seq/{name}/{task}/normalized"]
            hidden_diff = max(hidden_diff, float((hidden_got - want).abs().max()))
            vector_diff = max(vector_diff, float((vector - want_vector).abs().max()))
            distance = max(distance, 1 - float(vector.double() @ want_vector.double()))
    return hidden_diff, vector_diff, distance


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    w, goldens, failed = load_weights("original"), load_file(GOLDENS / "sequences.safetensors"), []
    print("| mistake | hidden states, max diff | normalized vectors, max diff | 1 - min cosine |\n| --- | --- | --- | --- |")
    for name, rules in MISTAKES.items():
        hidden, vector, distance = cost(w, goldens, rules)
        shown = "-" if name in ONLY_VECTORS else f"{hidden:.1e}"
        print(f"| {name} | {shown} | {vector:.1e} | {distance:.1e} |")
        seen = max(hidden, vector) > VISIBLE
        if seen == (name == "as specified"):
            failed.append(name)
    if failed:
        sys.exit(f"not as it should be: {', '.join(failed)}")


if __name__ == "__main__":
    main()
