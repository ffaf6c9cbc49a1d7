"""Questions and the passages that answer them, as token ids, drawn one language at a time."""

from collections import defaultdict

import numpy as np
from tokenizers import Tokenizer

from . import corpus
from .items import Items
from .settings import Paths

#: How often a pair of each kind is drawn.
WEIGHTS = {"questions": 0.25, "headings": 0.15, "sentences": 0.4, "words": 0.05, "wikipedia": 0.15}
#: Every tenth of the asked questions is kept to choose steps and rates.
HELD_OUT = 3

#: Sets whose neighbouring rows are neighbours in a document; any run of them is a passage.
DOCUMENTS = ("courses", "tico19", "bible", "python", "rust")
#: Rows of a run, and how often its English side is taken.
RUN = (3, 8)
ENGLISH = 0.25
#: How often the sentence that is asked for stays in the passage. A question shares words with its passage.
STAYS = 0.5

#: Longest parts in tokens, without instruction and special tokens.
LONGEST_QUESTION = 48
LONGEST_PASSAGE = 160


class Questions:
    """Pairs of lists, and runs of sentences that become pairs when they are drawn."""

    def __init__(self, items: Items, tokenizer: Tokenizer, paths: Paths):
        self.items = items
        self.pairs = defaultdict(lambda: defaultdict(list))
        self.passage_of = []
        known, texts, rows = {}, [], list(read(paths))
        for kind, language, question, passage in rows:
            self.pairs[kind][language].append(len(self.passage_of))
            self.passage_of.append(known.setdefault(passage, len(known)))
            texts.append(question)
        self.passage_of = np.array(self.passage_of)
        self.question_ids = inner(tokenizer, texts)
        self.passage_ids = inner(tokenizer, list(known))
        self.runs = documents(items)

    def draw(self, random: np.random.Generator, count: int):
        """(questions, passages, same): ids without special tokens, and which of them share a passage."""
        names = sorted(WEIGHTS)
        kind = names[random.choice(len(names), p=[WEIGHTS[name] for name in names])]
        if kind == "sentences":
            return self.draw_sentences(random, count)
        languages = self.pairs[kind]
        chosen = random.choice(languages[random.choice(sorted(languages))], count)
        passages = self.passage_of[chosen]
        return [self.question_ids[row] for row in chosen], [self.passage_ids[row] for row in passages], passages

    def draw_sentences(self, random: np.random.Generator, count: int):
        """A run of sentences of a document, and some words of one of them."""
        rows = self.runs[random.integers(len(self.runs))]
        if random.random() < ENGLISH:
            rows = self.items.row[rows]  # the text of a row is the item of that number
        questions, passages = [], []
        starts = random.integers(0, len(rows) - RUN[1], count)
        for start in starts:
            run = [self.items.ids(item, 512)[1:-1] for item in rows[start : start + random.integers(RUN[0], RUN[1] + 1)]]
            place = random.integers(len(run))
            questions.append(some_words(random, run[place]))
            if random.random() > STAYS:
                del run[place]
            passages.append(np.concatenate(run))
        return questions, passages, starts // RUN[1]


def read(paths: Paths):
    """(kind, language, question, passage) of the sets that hold such pairs."""
    asked = corpus.read_tsv(paths.train / "wiki-qa/question-passage.tsv.gz")
    for row, (language, question, passage, _) in enumerate(asked):
        if row % 10 != HELD_OUT:
            yield "questions", language, question, passage
    for language, heading, passage in corpus.read_tsv(paths.train / "ms-courses/heading-passage.tsv.gz"):
        yield "headings", language, heading, passage
    for _, words, definition, example in corpus.read_tsv(paths.train / "english-wordnet/glosses.tsv.gz"):
        if len(example) > 25:
            yield "words", "en", f"what is {words.split(',')[0]}?", f"{words}: {definition}. {example}"
    for first, second in corpus.read_tsv(paths.train / "wiki-split/wikisplit.tsv.gz"):
        yield "wikipedia", "en", first, second


def inner(tokenizer: Tokenizer, texts: list) -> list:
    return [np.array(encoding.ids[1:-1], np.int32) for encoding in tokenizer.encode_batch(texts)]


def documents(items: Items) -> list:
    """Items of each set and language that hold documents, in their order."""
    english = items.codes.index("en")
    runs = []
    for name in DOCUMENTS:
        for language in range(len(items.codes)):
            of_set = (items.set == items.names.index(name)) & (items.language == language)
            rows = np.nonzero(of_set)[0]
            if language != english and len(rows) > 500:
                runs.append(rows)
    return runs


def some_words(random: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """A question is shorter than the sentence that it asks for: a run of its tokens."""
    if len(ids) < 8:
        return ids
    keep = random.integers(max(5, len(ids) // 3), len(ids) + 1)
    begin = random.integers(0, len(ids) - keep + 1)
    return ids[begin : begin + keep]


def framed(rows: list, longest: int, prefix=()) -> list:
    """`<s>`, an instruction, at most `longest` tokens of each row, `</s>`."""
    return [np.concatenate([[0], prefix, row[:longest], [2]]).astype(np.int64) for row in rows]
