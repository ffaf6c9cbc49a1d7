"""A start from an earlier mini instead of the static stage: its layers, its adapters, and its rows of the table.

A piece that its vocabulary lacks starts as the mean of the pieces that it had in its place, an English word as the
teacher's vector of the word (`body.ADDED_RATE` then trains these rows faster).
"""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from . import export
from .body import embedded
from .items import Items
from .model import Mini
from .settings import Paths
from .static import start_words

#: Texts on which the directions of the targets are compared with those of the earlier model's vectors.
COMPARED = 2_000


def start(model: Mini, items: Items, wanted: np.ndarray, paths: Paths, folder: Path, device, log) -> torch.Tensor:
    """Fills `model` from the export in `folder`, whose shape is the same but for the vocabulary; gives the new ids.

    `wanted` and the basis on file take the signs that the vectors of that model have.
    """
    added = fill(model, paths, folder)
    cosine = align(model, items, wanted, paths, device)
    words = start_words(model, paths, set(added.tolist()))
    log(stage="inherit", added=len(added), words=words, cosine=cosine)
    return added


def fill(model: Mini, paths: Paths, folder: Path) -> torch.Tensor:
    """Every weight of the export, its rows of the table under their new ids."""
    earlier = export.load_model(folder)
    old = Tokenizer.from_file(str(folder / "tokenizer.json"))
    new = Tokenizer.from_file(str(paths.work / "tokenizer.json"))
    known = old.get_vocab()
    pieces = [new.id_to_token(id) for id in range(new.get_vocab_size())]
    sources = [
        [known[piece]] if piece in known else [part.id for part in old.model.tokenize(piece)] for piece in pieces
    ]
    flat = torch.tensor([row for rows in sources for row in rows])
    count = torch.tensor([len(rows) for rows in sources])
    owner = torch.repeat_interleave(torch.arange(len(sources)), count)

    def mapped(rows):
        return torch.zeros(len(sources), rows.shape[1]).index_add_(0, owner, rows[flat]) / count[:, None]

    state = {name: value.detach() for name, value in earlier.named_parameters()}
    table, factor = "word_embeddings.original", "word_embeddings.lora_A"
    state[table] = mapped(state[table])
    state[factor] = torch.stack([mapped(rows) for rows in state[factor]])
    model.load_state_dict(state)
    return torch.tensor([id for id, piece in enumerate(pieces) if piece not in known])


@torch.no_grad()
def align(model: Mini, items: Items, wanted: np.ndarray, paths: Paths, device) -> float:
    """Gives each direction of the targets the sign that it has in the vectors of `model`, here and on file.

    Gives the mean cosine of those vectors to the targets; a low one says that the targets' basis is another one.
    """
    english = np.nonzero(items.language == items.codes.index("en"))[0]
    chosen = english[(items.length[english] < 40) & (items.weight[english] > 0)][:COMPARED]
    made = embedded(model, [items.ids(item, 40) for item in chosen], device).cpu().numpy()
    goal = wanted[items.row[chosen]].astype(np.float32)
    sign = np.where((made * goal).sum(0) < 0, -1, 1).astype(np.float32)
    wanted *= sign.astype(np.float16)
    basis = np.load(paths.work / "basis.npy")
    np.save(paths.work / "basis.npy", basis * sign[: basis.shape[1]])
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return float((made * goal * sign).sum(1).mean())
