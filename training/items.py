"""Tokenised texts with the row of their target, and the drawing of batches from them."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from . import corpus, teacher
from .settings import LANGUAGES, Paths, Schedule, Shape

#: Last dimensions of the vector that the targets leave at zero. A token that should weigh little in the
#: mean puts its norm there, which LayerNorm would not let it lose otherwise.
SPARE = 8

#: Share of English in a batch, and how far the other languages are evened out (1 leaves them as they are).
ENGLISH_SHARE = 0.25
TEMPERATURE = 0.35

ENGLISH_WEIGHTS = {
    "tatoeba": 1.0, "sib200": 3.0, "pud": 3.0, "tico19": 2.0, "questions": 3.0, "passages": 3.0,
    "wikipedia": 2.0, "courses": 1.0, "interface": 0.5, "aosp": 0.3, "rust": 0.5, "lemmas": 0.3,
    "definitions": 0.5, "bible": 0.3, "trivia": 0.7, "intents": 1.0, "cldr": 0.2, "glosses": 0.5,
    "python": 0.3, "interface-words": 0.2, "paragraphs": 2.0,
}  # fmt: skip


class Items:
    """Text k has ids `flat[start[k]:start[k + 1]]`, target `row[k]`, a set and a language."""

    def __init__(self, paths: Paths, schedule: Schedule, log):
        cache = paths.work / "items.npz"
        if not cache.exists():
            save_items(paths, schedule, cache)
            log(stage="items", done=True)
        with np.load(cache) as file:
            self.flat, self.start, self.row = file["flat"], file["start"], file["row"]
            self.set, self.language, self.names = file["set"], file["language"], list(file["names"])
        self.length = np.diff(self.start)
        available = len(teacher.vectors(paths.work))
        self.codes = sorted(LANGUAGES)
        english = self.language == self.codes.index("en")
        held_out = is_held_out(self.row)
        # `validation` is of Tatoeba, whose English texts the teacher sees early
        self.validation = np.nonzero(held_out & ~english & (self.set == self.names.index("tatoeba")))[0]
        weight = np.zeros(len(self.row))
        for index, name in enumerate(self.names):
            of_set = self.set == index
            weight[of_set & english] = ENGLISH_WEIGHTS.get(name, 0.5)
            weight[of_set & ~english] = corpus.PAIR_WEIGHTS.get(name, 0.5)
        weight[held_out | (self.row >= available)] = 0
        total = np.bincount(self.language, weight, len(self.codes))
        share = total**TEMPERATURE
        en = self.codes.index("en")
        share[en] = 0
        share *= (1 - ENGLISH_SHARE) / share.sum()
        share[en] = ENGLISH_SHARE
        weight *= (share / np.maximum(total, 1e-9))[self.language]
        self.cumulative = np.cumsum(weight / weight.sum())

    def ids(self, item: int, longest: int) -> np.ndarray:
        ids = self.flat[self.start[item] : self.start[item + 1]]
        return ids if len(ids) <= longest else np.append(ids[: longest - 1], ids[-1])

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        return np.minimum(np.searchsorted(self.cumulative, random.random(count)), len(self.row) - 1)


def is_held_out(row: np.ndarray) -> np.ndarray:
    """One English text in 200, with all its translations, for the validation loss."""
    return row % 200 == 7


def save_items(paths: Paths, schedule: Schedule, cache: Path) -> None:
    texts = corpus.load(paths, schedule.seed)
    tokenizer = Tokenizer.from_file(str(paths.work / "tokenizer.json"))
    names = sorted(set(texts.english_set) | {pair[0] for pair in texts.pairs})
    codes = sorted(LANGUAGES)
    name_of = {name: index for index, name in enumerate(names)}
    code_of = {code: index for index, code in enumerate(codes)}
    rows = min(schedule.teacher_sentences, len(texts.english))
    english = list(range(rows))
    pairs = [pair for pair in texts.pairs if pair[2] < rows]
    lengths, flat = [0], []
    for block in blocks([texts.english[row] for row in english] + [pair[3] for pair in pairs]):
        for encoding in tokenizer.encode_batch(block):
            flat.append(np.array(encoding.ids, np.uint16))
            lengths.append(len(encoding.ids))
    np.savez(
        cache,
        flat=np.concatenate(flat),
        start=np.cumsum(lengths),
        row=np.array(english + [pair[2] for pair in pairs], np.int32),
        set=np.array(
            [name_of[texts.english_set[row]] for row in english] + [name_of[pair[0]] for pair in pairs], np.uint8
        ),
        language=np.array([code_of["en"]] * len(english) + [code_of[pair[1]] for pair in pairs], np.uint8),
        names=np.array(names),
    )


def blocks(texts: list, size: int = 20_000):
    for begin in range(0, len(texts), size):
        yield texts[begin : begin + size]


def targets(paths: Paths, shape: Shape, log) -> np.ndarray:
    """The teacher's vectors turned so that dimensions come by falling variance, and cut; float16, unit length.

    A turn keeps every cosine, and makes a prefix of the vector the best one of its length.
    """
    known = teacher.vectors(paths.work)
    width = shape.hidden_size - SPARE
    basis_file = paths.work / "basis.npy"
    if not basis_file.exists():
        sample = known[np.random.default_rng(0).permutation(len(known))[:60_000]].astype(np.float32)
        energy, basis = np.linalg.eigh(sample.T @ sample)
        energy, basis = energy[::-1] / energy.sum(), basis[:, ::-1]
        np.save(basis_file, np.ascontiguousarray(basis))
        kept = {str(size): float(energy[:size].sum()) for size in (32, 64, 128, width)}
        log(stage="targets", energy_kept=kept)
    basis = np.load(basis_file)[:, :width]
    result = np.zeros((len(known), shape.hidden_size), np.float16)
    for begin in range(0, len(known), 65_536):
        block = known[begin : begin + 65_536].astype(np.float32) @ basis
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        result[begin : begin + len(block), :width] = block
    return result
