"""Second stage: the whole encoder, every weight but the adapters, towards the teacher's vectors."""

import contextlib

import numpy as np
import torch

from .items import Items
from .losses import distance, distillation
from .model import Mini, padded
from .questions import framed
from .settings import Paths, Schedule
from .static import accuracy, save
from .teacher import fastest_type

#: Shares of wide and of close families in a batch, and what `draw_thinned` keeps of longer texts, of English and of
#: other languages.
MIX = ((0.3, 0.3), 0.3, 0.7, 1.0)
#: Longest ordinary text in tokens.
LONGEST = 320
#: This share of the batches is of joined texts of so many tokens; every `LONG_EVERY` windows one goes up to the limit.
JOINED_SHARE = 0.3
JOINED = (48, LONGEST)
LONG_EVERY = 10
LONGER = 512
LONG_TOKENS = 6_144
#: Texts that are drawn together and then sorted by length, so that batches hold little padding. A family is
#: scattered over some of the batches, so families are large.
WINDOW = 4_096
WARM_UP = 200
#: Learning rate of the word table against the layers: it comes trained, and most of its rows are rare.
TABLE_RATE = 0.4
#: The same for the rows of pieces that an earlier mini did not have.
ADDED_RATE = 4.0


def precision(device):
    """bf16 products where the machine has them; the weights and the sums stay f32."""
    dtype = fastest_type(device)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def embedded(model, rows: list, device, task: int | None = None, parts: int = 4):
    """Vectors of rows of ids, computed in parts of like length, so that little is padding."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    made = []
    with precision(device):
        for part in np.array_split(order, parts):
            made.append(model(padded([rows[row] for row in part], device), task).float())
    return torch.cat(made)[torch.from_numpy(np.argsort(order)).to(device)]


def window_batches(items: Items, random: np.random.Generator, thinning: tuple, tokens_per_batch: int) -> list:
    """Batches of rows of `items`, each of about one length and at most `tokens_per_batch` tokens with padding."""
    chosen = items.draw_thinned(random, WINDOW, *thinning)
    length = np.minimum(items.length[chosen], LONGEST)
    order = np.argsort(length + random.random(len(chosen)))
    batches, begin = [], 0
    for position in range(1, len(chosen) + 1):
        if position == len(chosen) or length[order[position]] * (position + 1 - begin) > tokens_per_batch:
            batches.append(chosen[order[begin:position]])
            begin = position
    if len(batches[-1]) < 16:
        batches[-2:] = [np.concatenate(batches[-2:])]
    random.shuffle(batches)
    return batches


def joined_batch(items: Items, random: np.random.Generator, tokens: int, shortest: int, longest: int) -> list:
    """Texts of one language, joined to one length: [(ids, [(row of a target, weight)])], at most `tokens` in all."""
    wanted = int(np.exp(random.uniform(np.log(shortest), np.log(longest))))
    pool = items.draw(random, 6_000)
    made = []
    for language in range(len(items.codes)):
        ids, parts, whole = [], [], 0
        for item in pool[items.language[pool] == language]:
            ids.append(items.ids(item, LONGEST)[1:-1])
            parts.append((items.row[item], len(ids[-1])))
            if sum(map(len, ids)) >= wanted - 2:
                made.append((np.concatenate(ids), parts))
                ids, parts, whole = [], [], whole + 1
        if ids and not whole:
            made.append((np.concatenate(ids), parts))
    chosen = [made[index] for index in random.permutation(len(made))[: max(1, tokens // wanted)]]
    texts = framed([text for text, _ in chosen], wanted - 2)
    return [(text, parts) for text, (_, parts) in zip(texts, chosen, strict=True)]


def mean_targets(wanted: np.ndarray, made: list) -> np.ndarray:
    goals = [sum(wanted[row].astype(np.float32) * weight for row, weight in parts) for _, parts in made]
    return np.stack([goal / np.linalg.norm(goal) for goal in goals])


def train(
    model: Mini, encoder, items: Items, wanted: np.ndarray, paths: Paths, schedule: Schedule, device, log, added=None
) -> None:
    """`encoder` computes what `model` does, and may be compiled; `added` are the ids of rows that are new."""
    checkpoint = paths.work / "body.pt"
    base = model.base_parameters()
    table = base.pop("word_embeddings.original")
    rest = [value for name, value in base.items() if not name.startswith("pooler.")]
    groups = [
        {"params": [table], "peak": schedule.body_lr * TABLE_RATE, "weight_decay": 0.0},
        {"params": rest, "peak": schedule.body_lr, "weight_decay": 0.01},
    ]
    optimizer = torch.optim.AdamW(groups, lr=schedule.body_lr, betas=(0.9, 0.98), fused=True)
    dimensions = model.shape.matryoshka_dimensions
    window = step = tokens = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        model.load_state_dict(state["model"])
        window, step, tokens = state["window"], state["step"], state["tokens"]
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
    total = schedule.body_windows
    while window < total:
        random = np.random.default_rng([schedule.seed, 2, window])
        batches = window_batches(items, random, MIX, schedule.body_tokens)
        sums = np.zeros(2)
        for position, batch in enumerate(batches):
            done = (window + position / len(batches)) / total
            set_rate(optimizer, min(1.0, (step + 1) / WARM_UP) * max(0.01, 1 - done))
            if random.random() < JOINED_SHARE:
                made = joined_batch(items, random, schedule.body_tokens, *JOINED)
                ids, goal, rows = [text for text, _ in made], mean_targets(wanted, made), np.arange(len(made))
            else:
                ids, rows = [items.ids(item, LONGEST) for item in batch], items.row[batch]
                goal = wanted[rows]
            ids = padded(ids, device)
            goal, rows = torch.from_numpy(goal.astype(np.float32)).to(device), torch.from_numpy(rows).to(device)
            with precision(device):
                vectors = encoder(ids).float()
            loss, close, apart = distillation(vectors, goal, rows, dimensions)
            before = None if added is None else table.detach()[added]
            update(optimizer, loss, rest)
            if added is not None:
                with torch.no_grad():
                    table[added] += (ADDED_RATE / TABLE_RATE - 1) * (table[added] - before)
            step += 1
            tokens += ids.numel()
            sums += close.item(), apart.item()
        mean = sums / len(batches)
        fields = {}
        if window % LONG_EVERY == LONG_EVERY - 1:
            made = joined_batch(items, random, LONG_TOKENS, LONGER, model.shape.max_position_embeddings - 2)
            goal = torch.from_numpy(mean_targets(wanted, made)).to(device)
            with precision(device):
                vectors = model(padded([ids for ids, _ in made], device)).float()
            loss = distance(vectors, goal, dimensions)
            update(optimizer, 0.3 * loss, rest)
            fields = {"long_tokens": len(made[0][0]), "long_distance": loss.item()}
        window += 1
        log(stage="body", window=window, step=step, tokens=tokens, distance=mean[0], contrast=mean[1], **fields)
        if window % schedule.checkpoint_windows == 0 or window == total:
            state = {"model": model.state_dict(), "window": window, "step": step, "tokens": tokens}
            if window < total:
                state["optimizer"] = optimizer.state_dict()
            save(state, checkpoint)
            log(stage="body", window=window, step=step, validation=validate(model, items, wanted, device))


def set_rate(optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def update(optimizer, loss, clipped: list) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(clipped, 1.0)
    optimizer.step()


@torch.no_grad()
def validate(model: Mini, items: Items, wanted: np.ndarray, device) -> float:
    """Share of held-out texts nearest to their own target among all held-out targets."""
    vectors = embedded(model, [items.ids(item, LONGEST) for item in items.validation], device)
    return accuracy(vectors, items, wanted, device)
