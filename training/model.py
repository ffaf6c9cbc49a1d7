"""Jina-XLM-RoBERTa with rotary positions and stacked adapters, as the specification of the layout says."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .settings import TASKS, Shape

PAD = 1


class AdaptedLinear(nn.Module):
    """A linear layer with one low-rank pair a task: `W + scale * B[t] @ A[t]`."""

    def __init__(self, inputs: int, outputs: int, shape: Shape, std: float):
        super().__init__()
        self.scale = shape.lora_alpha / shape.lora_rank
        self.original = nn.Parameter(torch.randn(outputs, inputs) * std)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.lora_A = nn.Parameter(torch.randn(len(TASKS), shape.lora_rank, inputs) / math.sqrt(inputs))
        self.lora_B = nn.Parameter(torch.zeros(len(TASKS), outputs, shape.lora_rank))

    def forward(self, states, task):
        result = F.linear(states, self.original, self.bias)
        if task is not None:
            result = result + self.scale * F.linear(F.linear(states, self.lora_A[task]), self.lora_B[task])
        return result


class AdaptedEmbedding(nn.Module):
    """A table of rows; the letters of its pair swap roles: `W + scale * A[t] @ B[t]`."""

    def __init__(self, rows: int, shape: Shape, std: float):
        super().__init__()
        self.scale = shape.lora_alpha / shape.lora_rank
        self.original = nn.Parameter(torch.randn(rows, shape.hidden_size) * std)
        self.lora_A = nn.Parameter(torch.zeros(len(TASKS), rows, shape.lora_rank))
        self.lora_B = nn.Parameter(torch.randn(len(TASKS), shape.lora_rank, shape.hidden_size) * std)

    def forward(self, ids, task):
        states = F.embedding(ids, self.original)
        if task is not None:
            states = states + self.scale * (F.embedding(ids, self.lora_A[task]) @ self.lora_B[task])
        return states


class Layer(nn.Module):
    """Post-norm block. Both outputs start at zero, so that a new layer passes its input on."""

    def __init__(self, shape: Shape):
        super().__init__()
        hidden = shape.hidden_size
        self.heads = shape.num_attention_heads
        self.Wqkv = AdaptedLinear(hidden, 3 * hidden, shape, 0.03)
        self.out_proj = AdaptedLinear(hidden, hidden, shape, 0.0)
        self.norm1 = nn.LayerNorm(hidden, eps=shape.layer_norm_eps)
        self.fc1 = AdaptedLinear(hidden, shape.intermediate_size, shape, 1 / math.sqrt(hidden))
        self.fc2 = AdaptedLinear(shape.intermediate_size, hidden, shape, 0.0)
        self.norm2 = nn.LayerNorm(hidden, eps=shape.layer_norm_eps)

    def forward(self, states, mask, cos, sin, task):
        batch, length, hidden = states.shape
        qkv = self.Wqkv(states, task).view(batch, length, 3, self.heads, hidden // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        context = attention(query, key, value, mask)
        context = context.transpose(1, 2).reshape(batch, length, hidden)
        states = self.norm1(states + self.out_proj(context, task))
        return self.norm2(states + self.fc2(F.gelu(self.fc1(states, task)), task))


#: Up to this many tokens the scores of a batch are few and plain products are faster than the fused kernel.
SHORT = 160


def attention(query, key, value, mask):
    """[batch, heads, tokens, head_dim] each; `mask` is true where a token is attended."""
    if query.shape[2] > SHORT:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores.masked_fill(~mask, -1e4)
    return scores.softmax(-1).to(value.dtype) @ value


def rotate(states, cos, sin):
    """Pairs (i, i + width / 2), the "rotate half" layout."""
    first, second = states.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(states.dtype)


class Mini(nn.Module):
    """Token ids to mean-pooled vectors, neither truncated nor of unit length."""

    def __init__(self, shape: Shape):
        super().__init__()
        hidden = shape.hidden_size
        self.shape = shape
        self.word_embeddings = AdaptedEmbedding(shape.vocab_size, shape, 0.1)
        self.token_type_embeddings = AdaptedEmbedding(1, shape, 0.0)
        self.emb_ln = nn.LayerNorm(hidden, eps=shape.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.pooler = AdaptedLinear(hidden, hidden, shape, 0.02)
        half = hidden // shape.num_attention_heads // 2
        frequency = 1.0 / shape.rotary_emb_base ** (torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(shape.max_position_embeddings, dtype=torch.float64)[:, None] * frequency
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, ids, task=None):
        """[batch, hidden] from ids [batch, tokens] padded with 1; `task` is the row of one adapter."""
        attended = ids != PAD
        length = ids.shape[1]
        first = torch.zeros(1, dtype=torch.long, device=ids.device)
        states = self.word_embeddings(ids, task) + self.token_type_embeddings(first, task)
        states = self.emb_ln(states)
        mask = attended[:, None, None, :]
        for layer in self.layers:
            states = layer(states, mask, self.cos[:length], self.sin[:length], task)
        weight = attended[..., None].float()
        return (states.float() * weight).sum(1) / weight.sum(1).clamp(min=1e-9)

    def base_parameters(self) -> dict:
        return {name: value for name, value in self.named_parameters() if "lora_" not in name}

    def adapter_parameters(self) -> dict:
        return {name: value for name, value in self.named_parameters() if "lora_" in name}


def padded(rows: list, device=None):
    """[batch, longest] ids from lists or arrays of ids."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), PAD, dtype=torch.long)
    for position, row in enumerate(rows):
        ids[position, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    return ids.to(device) if device is not None else ids
