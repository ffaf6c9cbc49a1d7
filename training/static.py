"""First stage: only the word table, as a bag of words trained with large batches.

The encoder starts out as this very function (its layers begin as the identity), so the encoder goes on from here.
"""

import re

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from .items import SPARE, Items
from .losses import distillation
from .model import Mini
from .settings import Paths, Schedule
from .teacher import Teacher

#: Shares of wide and of close families in a batch.
FAMILIES = (0.4, 0.2)
#: Weight of the spare dimensions in the last LayerNorm at the start.
SPARE_GAIN = 0.05
LONGEST = 96
#: Texts that are one another's negatives.
GROUP = 512


def start(model: Mini) -> None:
    with torch.no_grad():
        model.layers[-1].norm2.weight[-SPARE:] = SPARE_GAIN


def start_words(model: Mini, paths: Paths, ids=None) -> int:
    """Gives the row of each whole English-looking word, of `ids` alone if given, the teacher's vector of that word.

    Returns their number.
    """
    tokenizer = Tokenizer.from_file(str(paths.work / "tokenizer.json"))
    vocabulary = {piece: id for piece, id in tokenizer.get_vocab().items() if ids is None or id in ids}
    words = {piece: id for piece, id in vocabulary.items() if re.fullmatch("▁[A-Za-z]{3,}", piece)}
    made = Teacher().encode([piece[1:] for piece in words]) @ np.load(paths.work / "basis.npy")
    made = torch.from_numpy(made / np.linalg.norm(made, axis=1, keepdims=True))
    with torch.no_grad():
        table = model.word_embeddings.original
        table[list(words.values()), : made.shape[1]] = (made * table.norm(dim=1).mean().cpu()).to(table.device)
    return len(words)


def bag(model: Mini, rows: list):
    """What the untrained encoder makes of texts: the mean of what it makes of each token alone."""
    device = model.word_embeddings.original.device
    tokens, flat = np.unique(np.concatenate(rows), return_inverse=True)
    offsets = torch.from_numpy(np.cumsum([0] + [len(row) for row in rows[:-1]])).to(device)
    table = F.embedding(torch.from_numpy(tokens.astype(np.int64)).to(device), model.word_embeddings.original)
    table = model.layers[-1].norm2(model.emb_ln(table + model.token_type_embeddings.original))
    return F.embedding_bag(torch.from_numpy(flat).to(device), table, offsets, mode="mean")


def train(
    model: Mini, items: Items, wanted: np.ndarray, paths: Paths, schedule: Schedule, device, log
) -> None:
    checkpoint = paths.work / "static.pt"
    last = model.layers[-1].norm2
    groups = [
        {"params": [model.word_embeddings.original], "peak": schedule.static_lr},
        {"params": [last.weight, last.bias], "peak": schedule.static_lr / 2},
    ]
    optimizer = torch.optim.Adam(groups, lr=schedule.static_lr, betas=(0.9, 0.98), fused=True)
    dimensions = model.shape.matryoshka_dimensions
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        model.load_state_dict(state["model"])
        step = state["step"]
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
    else:
        log(stage="static", step=0, words=start_words(model, paths))
    sums, tokens, total = np.zeros(2), 0, schedule.static_steps
    while step < total:
        random = np.random.default_rng([schedule.seed, 1, step])
        drawn = [items.draw_mixed(random, GROUP, FAMILIES) for _ in range(schedule.static_batch // GROUP)]
        factor = min(1.0, (step + 1) / 100) * max(0.01, 1 - step / total)
        chosen = np.concatenate(drawn)
        rows = [items.ids(item, LONGEST) for item in chosen]
        goal = torch.from_numpy(wanted[items.row[chosen]].astype(np.float32)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        vectors = bag(model, rows)
        loss, parts, begin = 0.0, np.zeros(2), 0
        for part in drawn:
            part, begin = slice(begin, begin + len(part)), begin + len(part)
            rows_of = torch.from_numpy(items.row[chosen[part]]).to(device)
            share, close, apart = distillation(vectors[part], goal[part], rows_of, dimensions)
            loss = loss + share / len(drawn)
            parts += np.array([close.item(), apart.item()]) / len(drawn)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        tokens += sum(map(len, rows))
        sums += parts
        if step % 50 == 0:
            distance, contrast = sums / 50
            log(stage="static", step=step, distance=distance, contrast=contrast, tokens=tokens)
            sums[:] = 0
        if step % schedule.checkpoint_every == 0 or step == total:
            state = {"model": model.state_dict(), "step": step}
            if step < total:
                state["optimizer"] = optimizer.state_dict()
            save(state, checkpoint)
        if step % 500 == 0 or step == total:
            log(stage="static", step=step, validation=validate(model, items, wanted, device))


def save(state: dict, path) -> None:
    """Writes beside the target first, so that a stop never leaves half a file."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


@torch.no_grad()
def validate(model: Mini, items: Items, wanted: np.ndarray, device) -> float:
    """Share of held-out texts nearest to their own target among all held-out targets."""
    vectors = bag(model, [items.ids(item, LONGEST) for item in items.validation])
    return accuracy(vectors, items, wanted, device)


def accuracy(vectors, items: Items, wanted: np.ndarray, device) -> float:
    distinct, own = np.unique(items.row[items.validation], return_inverse=True)
    goal = torch.from_numpy(wanted[distinct].astype(np.float32)).to(device)
    nearest = (F.normalize(vectors, dim=-1) @ goal.T).argmax(1).cpu().numpy()
    return float((nearest == own).mean())
