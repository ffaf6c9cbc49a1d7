"""The most frequent English words, for the vocabulary and, alone and in small groups, as texts for the teacher.

A vocabulary of 30 languages leaves most English words in pieces. What the pieces mean together is cheapest learned
from the word itself: three to five tokens, all of which count.
"""

import random
import re
from collections import Counter, defaultdict

import wordfreq

#: Words of a group are as often as this among so many most frequent ones, and else at any rank, rare ones less often.
COMMON_SHARE = 0.6
COMMON = 60_000
#: How many words a group has, and how often a word has a capital.
SIZES = (2, 2, 3, 3, 4, 5, 6, 8)
CAPITAL = 0.35


def frequent(count: int) -> list:
    """Those of the `count` most frequent English words that are letters or hyphens, in lower case, most frequent first."""
    return [word for word in wordfreq.top_n_list("en", count) if re.fullmatch(r"[a-zà-ÿ][a-zà-ÿ\-]+", word)]


def frequency(word: str) -> float:
    """Share of the words of English text."""
    return wordfreq.word_frequency(word, "en")


def usual_case(texts) -> dict:
    """Lower-case word -> how `texts` write it most often inside a sentence."""
    written = defaultdict(Counter)
    for text in texts:
        # the first word of a sentence says nothing of its case
        for word in re.findall("(?<=[a-z,] )[A-Za-z]{3,}", text):
            written[word.lower()][word] += 1
    return {word: spellings.most_common(1)[0][0] for word, spellings in written.items()}


def capitalised(words: list, seed: int) -> list:
    """The words, some of them with a capital."""
    shuffle = random.Random(seed)
    return [any_case(word, shuffle) for word in words]


def any_case(word: str, shuffle: random.Random) -> str:
    return word[0].upper() + word[1:] if shuffle.random() < CAPITAL else word


def groups(words: list, count: int, seed: int) -> list:
    """Distinct texts of a few words that were drawn without regard to one another."""
    shuffle = random.Random(seed)
    made = {}
    while len(made) < count:
        chosen = []
        for _ in range(shuffle.choice(SIZES)):
            # a rank of which every power of ten is as likely
            rank = int(len(words) ** shuffle.random())
            if shuffle.random() < COMMON_SHARE:
                rank = shuffle.randrange(min(len(words), COMMON))
            chosen.append(any_case(words[max(rank - 1, 0)], shuffle))
        made[" ".join(chosen)] = None
    return list(made)
