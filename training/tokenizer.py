"""Builds tokenizer.json: a SentencePiece Unigram model in XLM-R's pipeline and special-token layout."""

import base64
import io
import json
import math
import random
import re
from collections import defaultdict
from pathlib import Path

from . import words
from .corpus import read_english, read_pairs
from .settings import LANGUAGES, Paths, Schedule, Shape

#: Characters of text a language for the training of the vocabulary.
CHARS_PER_LANGUAGE = 900_000
CHARS_ENGLISH = 3_000_000
#: Pieces that are whole English words, and the share of English in the text that the scores of pieces are of.
ENGLISH_WORDS = 7_900
ENGLISH_OF_TEXT = 0.1
#: Texts of these sets are taken first; the rest fills up a language that has too few.
PROSE = ("sib200", "pud", "tico19", "tatoeba", "definitions", "courses", "interface", "bible")


def sample_lines(paths: Paths, seed: int) -> list:
    """Lines for SentencePiece, about the same number of characters for each language."""
    by_language = defaultdict(lambda: defaultdict(dict))
    for name, language, english, other in read_pairs(paths):
        by_language[language][name][other] = None
        by_language["en"][name][english] = None
    for name, text in read_english(paths):
        by_language["en"][name][text] = None
    shuffle = random.Random(seed)
    lines = []
    for language in sorted(LANGUAGES):
        budget = CHARS_ENGLISH if language == "en" else CHARS_PER_LANGUAGE
        sets = by_language[language]
        order = [name for name in PROSE if name in sets] + sorted(set(sets) - set(PROSE))
        for position, name in enumerate(order):
            # no set takes more than 40 % of what is left, so that no style fills the vocabulary
            share = budget * 0.4 if position + 1 < len(order) else budget
            texts = list(sets[name])
            shuffle.shuffle(texts)
            for text in texts:
                if share <= 0:
                    break
                lines.append(text)
                share -= len(text)
                budget -= len(text)
    shuffle.shuffle(lines)
    return lines


def english_words(paths: Paths, known: set) -> list:
    """The most frequent English words that are no pieces yet, each in its usual case, with scores as those of pieces."""
    texts = [english for _, _, english, _ in read_pairs(paths)] + [text for _, text in read_english(paths)]
    usual = words.usual_case(dict.fromkeys(texts))
    made = {}
    for word in words.frequent(10 * ENGLISH_WORDS):
        piece = f"▁{usual.get(word, word)}"
        if re.fullmatch("[a-z]{3,}", word) and piece not in known and len(made) < ENGLISH_WORDS:
            made[piece] = math.log(words.frequency(word) * ENGLISH_OF_TEXT)
    return list(made.items())


def train_pieces(lines: list, pieces: int, threads: int):
    """The pieces with their scores, and the character map, as SentencePiece trains them."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=pieces + 3,
        character_coverage=0.9996,
        normalization_rule_name="nmt_nfkc",
        num_threads=threads,
        train_extremely_large_corpus=False,
        minloglevel=1,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    ordinary = [(piece.piece, piece.score) for piece in proto.pieces if piece.type == 1]
    return ordinary, proto.normalizer_spec.precompiled_charsmap


def build(paths: Paths, shape: Shape, schedule: Schedule, threads: int, target: Path) -> None:
    """Writes tokenizer.json. Ids: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, pieces, `<mask>` last."""
    ordinary, charsmap = train_pieces(sample_lines(paths, schedule.seed), shape.vocab_size - 5 - ENGLISH_WORDS, threads)
    ordinary += english_words(paths, {piece for piece, _ in ordinary})
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [[piece, 0.0] for piece in special] + [list(row) for row in ordinary] + [["<mask>", 0.0]]
    if len(vocabulary) != shape.vocab_size:
        raise ValueError(f"the vocabulary has {len(vocabulary)} pieces, expected {shape.vocab_size}")
    added = [(0, "<s>"), (1, "<pad>"), (2, "</s>"), (3, "<unk>"), (len(vocabulary) - 1, "<mask>")]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    single = [special_token("<s>"), sequence("A"), special_token("</s>")]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": content,
                "single_word": False,
                "lstrip": content == "<mask>",
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for id, content in added
        ],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single + [special_token("</s>"), sequence("B"), special_token("</s>")],
            "special_tokens": {
                "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
                "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
            },
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")), encoding="utf8")


def special_token(content: str) -> dict:
    return {"SpecialToken": {"id": content, "type_id": 0}}


def sequence(name: str) -> dict:
    return {"Sequence": {"id": name, "type_id": 0}}
