"""Reads the training text: translation pairs, English texts for the teacher, questions, labels."""

import csv
import gzip
import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from . import sentences, words
from .settings import LANGUAGES, Paths

#: Files with columns lang, en, xx -> (name in weights, most English sides a language for the teacher).
PAIR_FILES = {
    "tatoeba/tatoeba": "tatoeba",
    "ms-courses/courses": "courses",
    "aosp-strings/aosp": "aosp",
    "cldr/cldr": "cldr",
    "omw-wordnets/definitions": "definitions",
    "omw-wordnets/lemmas": "lemmas",
    "ud-pud/pud": "pud",
    "tico19/tico19": "tico19",
    "bible/bible": "bible",
    "comprehensive-rust/comprehensive-rust": "rust",
    "python-docs/python-docs": "python",
    "ui-strings/calculator": "interface-words",
    "ui-strings/element": "interface",
    "ui-strings/id-tagging": "interface-words",
    "ui-strings/lighthouse": "interface",
    "ui-strings/scratch": "interface",
    "ui-strings/wikipedia-android": "interface",
}

#: How often a pair of each set is drawn, against one of Tatoeba.
PAIR_WEIGHTS = {
    "tatoeba": 1.0, "pud": 3.0, "sib200": 3.0, "tico19": 1.5, "interface": 0.5, "aosp": 0.5,
    "courses": 0.4, "rust": 0.4, "definitions": 0.4, "python": 0.25, "bible": 0.2,
    "lemmas": 0.25, "cldr": 0.12, "interface-words": 0.12, "paragraphs": 1.5,
}  # fmt: skip

MAX_CHARS = 400


@dataclass
class Corpus:
    """`english` are distinct texts, most useful first; `pairs` are (set, language, row of english, text)."""

    english: list = field(default_factory=list)
    english_set: list = field(default_factory=list)
    pairs: list = field(default_factory=list)


def read_tsv(path: Path):
    """Rows after the header line. Texts hold no tabs and no quoting."""
    with gzip.open(path, "rt", encoding="utf8") as lines:
        next(lines)
        for line in lines:
            yield line.rstrip("\n").split("\t")


def read_sib(paths: Paths, language: str, split: str) -> dict:
    """index_id -> (topic, text). The train split may be trained on, as its SOURCE.md names it so."""
    with open(paths.evaluation / "sib200" / LANGUAGES[language][0] / f"{split}.tsv", encoding="utf8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["index_id"]: (row["category"], row["text"]) for row in rows}


def usable(text: str) -> bool:
    return 2 <= len(text) <= MAX_CHARS and any(character.isalpha() for character in text)


def read_pairs(paths: Paths):
    """All translation pairs as (set, language, English, other)."""
    for file, name in PAIR_FILES.items():
        for language, english, other in read_tsv(paths.train / f"{file}.tsv.gz"):
            if language in LANGUAGES and usable(english) and usable(other):
                yield name, language, english, other
    english_side = read_sib(paths, "en", "train")
    for language in LANGUAGES:
        if language == "en":
            continue
        for index, (_, text) in read_sib(paths, language, "train").items():
            if index in english_side:
                yield "sib200", language, english_side[index][1], text


def read_english(paths: Paths):
    """English texts without a translation as (set, text)."""
    for language, question, passage, _ in read_tsv(paths.train / "wiki-qa/question-passage.tsv.gz"):
        if language == "en":
            yield "questions", question
            yield "passages", passage
    for _, question, _ in read_tsv(paths.train / "wiki-qa/nq-open-dev.tsv.gz"):
        yield "questions", question
    for complex_text, split_text in read_tsv(paths.train / "wiki-split/wikisplit.tsv.gz"):
        yield "wikipedia", complex_text
    for language, heading, passage in read_tsv(paths.train / "ms-courses/heading-passage.tsv.gz"):
        if language == "en":
            yield "passages", passage
    for _, question, _ in read_tsv(paths.train / "open-trivia-qa/trivia.tsv.gz"):
        yield "trivia", question
    for _, text, _ in read_intents(paths):
        yield "intents", text
    for _, _, definition, example in read_tsv(paths.train / "english-wordnet/glosses.tsv.gz"):
        yield "glosses", example if len(example) > 25 else definition


def read_intents(paths: Paths):
    """Labelled utterances for the classification adapter as (label, text, set); train splits only."""
    for split, intent, text in read_tsv(paths.train / "clinc150/clinc150.tsv.gz"):
        if split == "train":
            yield f"clinc:{intent}", text, "clinc150"
    for split, intent, text in read_tsv(paths.train / "hwu64/hwu64.tsv.gz"):
        if split == "train":
            yield f"hwu:{intent}", text, "hwu64"
    with open(paths.evaluation / "banking77/train.csv", encoding="utf8") as file:
        for row in csv.DictReader(file):
            yield f"banking:{row['category']}", row["text"], "banking77"
    for split, intent, text in read_tsv(paths.train / "sgd/sgd-user-turns.tsv.gz"):
        if split == "train":
            yield f"sgd:{intent}", text, "sgd"


def made_english(paths: Paths, groups: dict, seed: int):
    """English texts that `sentences` and `words` make, and parts of sets, as (set, text). No made one equals an evaluation text."""
    glosses = list(read_tsv(paths.train / "english-wordnet/glosses.tsv.gz"))
    meanings = [(field, meaning.split(", ")) for field, meaning, _, _ in glosses]
    wikipedia = [text for row in read_tsv(paths.train / "wiki-split/wikisplit.tsv.gz") for text in row[1].split(". ")]
    for text in wikipedia:
        if len(text) > 25:
            yield "splits", text
    for _, meaning, _, _ in glosses:
        for word in meaning.split(", ")[:2]:
            yield "words", word
    for _, _, definition, example in glosses:
        if len(example) > 25:
            yield "glosses-more", definition
    real = [text for name in ("tatoeba", "pud", "glosses", "tico19") for text in groups[name]]
    texts = [("scenes", text) for text in sentences.scenes(60_000, seed)]
    texts += [("headlines", text) for text in sentences.headlines(20_000, seed)]
    texts += [("variants", text) for text in sentences.variants(real + wikipedia, meanings, 60_000, seed)]
    frequent = words.frequent(160_000)
    texts += [("frequent", text) for text in words.capitalised(frequent, seed)]
    texts += [("word-groups", text) for text in words.groups(frequent, 260_000, seed)]
    known = {fold(text) for text in read_evaluation(paths)}
    yield from ((name, text) for name, text in texts if fold(text) not in known)


def fold(text: str) -> str:
    """As train/README.md compares texts: letters and digits in lower case."""
    return "".join(character for character in text.lower() if character.isalnum())


def read_evaluation(paths: Paths):
    """English texts of the evaluation sets, to keep made texts from being one of them by chance."""
    for file in sorted((paths.evaluation / "stsb-multi-mt").glob("stsb-en-*.csv")):
        with open(file, encoding="utf8") as lines:
            for row in csv.reader(lines):
                yield from row[:2]
    for file in sorted((paths.evaluation / "tatoeba").glob("*.eng")):
        yield from file.read_text(encoding="utf8").splitlines()


#: Order in which English texts go to the teacher: (set, most texts). Later rounds repeat sets without a limit.
TEACHER_ORDER = [
    ("sib200", None), ("pud", None), ("tico19", None), ("questions", None), ("passages", None),
    ("courses", None), ("tatoeba-rare", None), ("interface", None),
    ("scenes", 25_000), ("splits", 14_000), ("glosses", 20_000), ("tatoeba", None), ("headlines", 5_000),
    ("variants", 10_000), ("paragraphs", 2_000), ("intents", 8_000), ("trivia", 5_000), ("definitions", 5_000),
    ("bible-shared", 2_000), ("bible", 2_000), ("lemmas", None), ("aosp", None), ("words", 20_000),
    ("frequent", None), ("word-groups", 100_000),
    ("wikipedia", 3_000), ("splits", None), ("glosses", 20_000), ("variants", 15_000), ("rust", None),
    ("cldr", 4_000), ("interface-words", None), ("wikipedia", 4_000), ("glosses", 30_000), ("words", 20_000),
    ("python", 2_000), ("variants", None), ("scenes", None), ("paragraphs", 5_000), ("headlines", None),
    ("definitions", None), ("glosses", None), ("words", None), ("glosses-more", None), ("wikipedia", None),
    ("word-groups", None), ("trivia", None), ("bible-shared", None), ("bible", None),
    ("cldr", None), ("python", None), ("intents", None), ("paragraphs", None),
]  # fmt: skip

#: A language with fewer Tatoeba pairs than this has all of them embedded early.
RARE_TATOEBA = 4_000


def load(paths: Paths, seed: int) -> Corpus:
    """Reads everything, and orders the English texts for the teacher. The same seed gives the same order."""
    rows = list(dict.fromkeys(read_pairs(paths)))
    count = defaultdict(int)
    verses = defaultdict(set)
    for name, language, english, _ in rows:
        if name == "tatoeba":
            count[language] += 1
        elif name == "bible":
            verses[english].add(language)
    groups = defaultdict(dict)
    for name, language, english, _ in rows:
        group = name
        if name == "tatoeba" and count[language] < RARE_TATOEBA:
            group = "tatoeba-rare"
        elif name == "bible" and len(verses[english]) > 2:
            group = "bible-shared"
        groups[group][english] = None
    for name, text in read_english(paths):
        if 2 <= len(text) <= 1000:
            groups[name][text] = None
    made = list(paragraphs(rows, random.Random(seed + 1)))
    queues = {"paragraphs": list(dict.fromkeys(english for _, _, english, _ in made))}
    random.Random(seed + 2).shuffle(queues["paragraphs"])
    shuffle = random.Random(seed)
    for name in sorted(groups):
        queues[name] = list(groups[name])
        shuffle.shuffle(queues[name])
    made_groups = defaultdict(dict)
    for name, text in made_english(paths, groups, seed + 3):
        made_groups[name][text] = None
    for name in sorted(made_groups):
        queues[name] = list(made_groups[name])
        random.Random(seed + 4).shuffle(queues[name])
    corpus = Corpus()
    row_of = {}
    for name, limit in TEACHER_ORDER:
        queue = queues[name]
        taken, queues[name] = (queue, []) if limit is None else (queue[:limit], queue[limit:])
        for text in taken:
            if text not in row_of:
                row_of[text] = len(corpus.english)
                corpus.english.append(text)
                corpus.english_set.append(name.split("-")[0] if name.startswith(("tatoeba", "bible", "glosses")) else name)
    corpus.pairs = [(name, language, row_of[english], other) for name, language, english, other in rows + made]
    return corpus


#: Paragraphs joined from neighbouring pairs: most of each set for one language.
PARAGRAPHS = {"courses": 500, "tatoeba": 200, "tico19": 150, "bible": 120, "python": 200, "rust": 80}


def paragraphs(rows: list, shuffle: random.Random):
    """Neighbouring pairs of one file joined to 300-1000 characters of English, as pairs of the set "paragraphs"."""
    runs = defaultdict(list)
    for name, language, english, other in rows:
        if name in PARAGRAPHS:
            runs[name, language].append((english, other))
    for name, language in sorted(runs):
        pairs = runs[name, language]
        for _ in range(min(PARAGRAPHS[name], len(pairs) // 4)):
            position = shuffle.randrange(len(pairs))
            wanted = shuffle.randint(300, 1000)
            chosen, size = [], 0
            while position < len(pairs) and size < wanted:
                chosen.append(pairs[position])
                size += len(pairs[position][0]) + 1
                position += 1
            english, other = zip(*chosen, strict=True)
            yield "paragraphs", language, join(english), join(other)


def join(texts) -> str:
    """Texts as one paragraph; one that ends in a letter or digit gets a full stop."""
    return " ".join(text + "." if text[-1:].isalnum() and text.isascii() else text for text in texts)
