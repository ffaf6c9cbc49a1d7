"""Tokenised texts with the row of their target, and the drawing of batches from them."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from . import corpus, teacher
from .losses import neighbours, similarity
from .settings import LANGUAGES, Paths, Schedule, Shape

#: Last dimensions of the vector that the targets leave at zero. A token that should weigh little in the
#: mean puts its norm there, which LayerNorm would not let it lose otherwise.
SPARE = 8

#: The first texts, of which the targets' basis is learned: more of them would change it, and what was trained with it.
BASIS_TEXTS = 346_112

#: Share of English in a batch, and how far the other languages are evened out (1 leaves them as they are).
ENGLISH_SHARE = 0.36
TEMPERATURE = 0.35

#: Longer texts in tokens cost most of the time and teach least for it; `draw_thinned` leaves most of them out.
SHORT = 40

ENGLISH_WEIGHTS = {
    "tatoeba": 1.0, "sib200": 3.0, "pud": 3.0, "tico19": 2.0, "questions": 3.0, "passages": 3.0,
    "wikipedia": 2.0, "courses": 1.0, "interface": 0.5, "aosp": 0.3, "rust": 0.5, "lemmas": 0.3,
    "definitions": 0.5, "bible": 0.3, "trivia": 0.7, "intents": 1.0, "cldr": 0.2, "glosses": 0.5,
    "python": 0.3, "interface-words": 0.2, "paragraphs": 2.0,
    "scenes": 1.5, "splits": 2.0, "headlines": 0.7, "variants": 0.8, "words": 0.2,
    "frequent": 0.7, "word-groups": 0.7,
}  # fmt: skip

#: Of wide and of close families: random texts that the others are grouped around, and how many of one are drawn at once.
FAMILIES = ((400, 64), (6_000, 32))


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
        of_tatoeba = ~english & (self.set == self.names.index("tatoeba"))
        self.validation = np.nonzero(held_out & of_tatoeba & (self.row < available))[0]
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
        self.weight = weight / weight.sum()
        self.cumulative = np.cumsum(self.weight)

    def find_families(self, wanted: np.ndarray) -> None:
        """Groups the texts for `draw_mixed`."""
        known = np.nonzero(self.weight)[0]
        self.families = [Families(*sizes, wanted, known, self) for sizes in FAMILIES]

    def draw_mixed(self, random: np.random.Generator, count: int, shares=(0.25, 0.25)) -> np.ndarray:
        """These shares come in wide and in close families, in which the teacher's cosines have all grades."""
        parts = [families.draw(random, int(count * share)) for families, share in zip(self.families, shares, strict=True)]
        return np.concatenate([self.draw(random, count - sum(map(len, parts))), *parts])

    def draw_thinned(
        self, random: np.random.Generator, count: int, shares, longer: float, english: float, others: float
    ) -> np.ndarray:
        """`count` of `draw_mixed`, of which these shares of the longer texts, of English and of the other languages stay."""
        chosen = []
        while sum(map(len, chosen)) < count:
            drawn = self.draw_mixed(random, count, shares)
            kept = np.where(self.language[drawn] == self.codes.index("en"), english, others)
            kept *= np.where(self.length[drawn] > SHORT, longer, 1.0)
            chosen.append(drawn[random.random(count) < kept])
        return np.concatenate(chosen)[:count]

    def ids(self, item: int, longest: int) -> np.ndarray:
        ids = self.flat[self.start[item] : self.start[item + 1]]
        return ids if len(ids) <= longest else np.append(ids[: longest - 1], ids[-1])

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        return np.minimum(np.searchsorted(self.cumulative, random.random(count)), len(self.row) - 1)


class Families:
    """Texts grouped by the nearest of some random targets; a few of a group are drawn at once, groups by their weight."""

    def __init__(self, count: int, at_once: int, wanted: np.ndarray, known: np.ndarray, items: Items):
        self.at_once = at_once
        random = np.random.default_rng(0)
        centres = wanted[random.choice(len(wanted), count, replace=False)].astype(np.float32)
        blocks = range(0, len(wanted), 16_384)
        nearest = [(wanted[begin : begin + 16_384].astype(np.float32) @ centres.T).argmax(1) for begin in blocks]
        family = np.concatenate(nearest)[items.row[known]]
        order = np.argsort(family, kind="stable")
        self.members = known[order]
        self.cumulative = np.cumsum(items.weight[self.members])
        last = np.searchsorted(family[order], np.arange(count), "right") - 1
        self.bounds = np.concatenate([[0.0], np.where(last < 0, 0.0, self.cumulative[last])])

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        point = random.random(-(-count // self.at_once)) * self.bounds[-1]
        family = np.searchsorted(self.bounds[1:], point)
        low, high = self.bounds[family], self.bounds[family + 1]
        point = low[:, None] + random.random((len(family), self.at_once)) * (high - low)[:, None]
        place = np.searchsorted(self.cumulative, point.reshape(-1)[:count])
        return self.members[np.minimum(place, len(self.members) - 1)]


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


def targets(paths: Paths, shape: Shape, schedule: Schedule, log) -> np.ndarray:
    """The teacher's vectors in fewer dimensions by a learned linear map, so that each prefix keeps the neighbours.

    Float16, unit length. The last `SPARE` dimensions are zero.
    """
    known = teacher.vectors(paths.work)
    width = shape.hidden_size - SPARE
    basis_file = paths.work / "basis.npy"
    if not basis_file.exists():
        sizes = [size for size in shape.matryoshka_dimensions if size < width] + [width]
        np.save(basis_file, learn_basis(known, sizes, schedule, log))
    basis = np.load(basis_file)
    result = np.zeros((len(known), shape.hidden_size), np.float16)
    for begin in range(0, len(known), 65_536):
        block = known[begin : begin + 65_536].astype(np.float32) @ basis
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        result[begin : begin + len(block), :width] = block
    return result


def learn_basis(known: np.ndarray, sizes: list, schedule: Schedule, log) -> np.ndarray:
    """[teacher, width]: starts at the principal components, and is trained so that the cosines of every prefix
    are those of the whole vectors."""
    random = np.random.default_rng([schedule.seed, 4])
    sample = known[random.permutation(min(BASIS_TEXTS, len(known)))[:60_000]].astype(np.float32)
    _, basis = np.linalg.eigh(sample.T @ sample)
    # an eigenvector's sign is the machine's choice, and a model that is trained further must find its targets again
    basis *= np.sign(basis[np.abs(basis).argmax(0), np.arange(len(basis))])
    basis = torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(basis[:, ::-1][:, : sizes[-1]])))
    optimizer = torch.optim.Adam([basis], lr=schedule.basis_lr)
    sums = 0.0
    for step in range(schedule.basis_steps):
        optimizer.param_groups[0]["lr"] = schedule.basis_lr * (1 - step / schedule.basis_steps)
        goal = torch.from_numpy(sample[random.choice(len(sample), 1_024, replace=False)])
        made = goal @ basis
        loss = neighbours(made, goal, sizes) + 20 * similarity(made, goal, sizes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums += loss.item()
        if step % 25 == 24:
            log(stage="basis", step=step + 1, loss=sums / 25)
            sums = 0.0
    return basis.detach().numpy()
