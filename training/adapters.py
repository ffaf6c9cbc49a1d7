"""Third stage: the five adapters, the body frozen.

Each adapter learns its own task and, on general text, to stay near the teacher: what it knows of 30 languages
comes from the body, and most labelled text is English.
"""

from collections import defaultdict

import numpy as np
import torch
from tokenizers import Tokenizer

from . import corpus
from .body import embedded, set_rate
from .items import SPARE, Items
from .losses import answers, distillation, same_label
from .model import Mini
from .questions import LONGEST_QUESTION, Questions, framed
from .settings import INSTRUCTIONS, LANGUAGES, TASKS, Paths, Schedule
from .static import save

#: For text-matching: shares of wide and of close families, and what `draw_thinned` keeps of longer texts, of English and of other languages.
GRADED = ((0.1, 0.6), 0.1, 1.0, 0.35)
#: Longest text in training with its instruction; the body has seen longer ones.
LONGEST = 160


class Texts:
    """Tokenised texts of one adapter, its instruction in front."""

    def __init__(self, tokenizer: Tokenizer, texts: list, task: str):
        self.rows = [encoding.ids for encoding in tokenizer.encode_batch([INSTRUCTIONS[task] + text for text in texts])]

    def batch(self, chosen) -> list:
        return [cut(self.rows[row], LONGEST) for row in chosen]


def cut(ids: list, longest: int) -> list:
    return ids if len(ids) <= longest else ids[: longest - 1] + ids[-1:]


def with_instruction(items: Items, chosen, prefix: list) -> list:
    """General texts behind the ids of an instruction: `<s>`, instruction, text, `</s>`."""
    return [cut([0, *prefix, *items.ids(item, 128)[1:]], LONGEST) for item in chosen]


def every(step: int, rows) -> list:
    """One row in `step`: more than an adapter's few steps will draw."""
    return list(rows)[::step]


def labelled(paths: Paths, task: str) -> list:
    """(group, label, text); a batch holds one group, so that labels of different sets never meet."""
    rows = []
    for language in LANGUAGES:
        for topic, text in corpus.read_sib(paths, language, "train").values():
            rows.append(("topics", topic, text))
    intents = list(corpus.read_intents(paths))
    dialogues = every(4, [row for row in intents if row[2] == "sgd"])
    if task == "classification":
        for label, text, name in [row for row in intents if row[2] != "sgd"] + dialogues:
            rows.append((name, label, text))
    else:
        for category, question, answer in every(4, corpus.read_tsv(paths.train / "open-trivia-qa/trivia.tsv.gz")):
            rows.append(("trivia", category, f"{question} {answer}"))
        for label, text, name in dialogues:
            rows.append((name, label.split(".")[0], text))
    for lexfile, _, definition, example in every(8, corpus.read_tsv(paths.train / "english-wordnet/glosses.tsv.gz")):
        if lexfile.startswith(("noun.", "verb.")) and lexfile != "noun.Tops":
            rows.append(("wordnet", lexfile, example or definition))
    return rows


LABEL_WEIGHTS = {
    "classification": {"topics": 0.5, "clinc150": 0.1, "hwu64": 0.05, "banking77": 0.25, "sgd": 0.05, "wordnet": 0.05},
    "separation": {"topics": 0.6, "trivia": 0.2, "sgd": 0.1, "wordnet": 0.1},
}


#: How much larger than a word's own row the adapter makes an instruction's words at the start.
HUSHED = 8.0


def start(model: Mini, seed: int, prefixes: dict) -> None:
    """One factor of each pair is zero, so that an adapter starts as nothing; the other gets the size of its rows.

    But an instruction is half of a short text's mean, and says nothing of it: its tokens start out in the spare
    dimensions, which weigh next to nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = 2 * model.word_embeddings.original.std().item()
    hidden = model.shape.hidden_size
    hush = torch.zeros(hidden)
    # of both signs, so that LayerNorm finds no mean to take from the other dimensions
    hush[-SPARE:] = spread * (hidden / SPARE) ** 0.5 * torch.tensor([1.0, -1.0]).repeat(SPARE // 2)
    with torch.no_grad():
        for embedding in (model.word_embeddings, model.token_type_embeddings):
            embedding.lora_A.zero_()
            embedding.lora_B.copy_(spread * torch.randn(embedding.lora_B.shape, generator=generator))
        for task, prefix in prefixes.items():
            if prefix:
                row = TASKS.index(task)
                model.word_embeddings.lora_B[row, 0] = hush
                model.word_embeddings.lora_A[row, prefix, 0] = HUSHED / 2 / model.word_embeddings.scale
        model.pooler.lora_A.zero_()
        model.pooler.lora_B.zero_()


class Trainer:
    """What the five adapters share: the frozen body, the general texts and their targets."""

    def __init__(
        self, model: Mini, items: Items, questions: Questions, wanted: np.ndarray, paths: Paths, schedule: Schedule,
        device, log,
    ):  # fmt: skip
        self.model, self.items, self.questions, self.wanted, self.paths = model, items, questions, wanted, paths
        self.schedule, self.device, self.log = schedule, device, log
        self.tokenizer = Tokenizer.from_file(str(paths.work / "tokenizer.json"))
        self.prefix = {task: self.tokenizer.encode(INSTRUCTIONS[task]).ids[1:-1] for task in TASKS}
        self.dimensions = model.shape.matryoshka_dimensions
        for value in model.base_parameters().values():
            value.requires_grad_(False)
        # those of an earlier mini are trained already
        if not any(layer.fc2.lora_B.any() for layer in model.layers):
            start(model, schedule.seed, self.prefix)

    def embed(self, rows: list, task: str):
        return embedded(self.model, rows, self.device, TASKS.index(task))

    def general(self, random, task: str, count: int):
        """Vectors and targets of ordinary texts of like length under one adapter, and their target rows."""
        chosen = self.items.draw_mixed(random, count * 8)
        chosen = chosen[self.items.length[chosen] < 96]
        chosen = chosen[np.argsort(self.items.length[chosen])]
        begin = random.integers(0, len(chosen) - count)
        chosen = chosen[begin : begin + count]
        vectors = self.embed(with_instruction(self.items, chosen, self.prefix[task]), task)
        goal = torch.from_numpy(self.wanted[self.items.row[chosen]].astype(np.float32)).to(self.device)
        return vectors, goal, torch.from_numpy(self.items.row[chosen]).to(self.device)

    def near_teacher(self, random, task: str, count: int):
        return distillation(*self.general(random, task, count), self.dimensions)[0]

    def kept(self, name: str, tasks: list) -> bool:
        """Loads the adapters of `tasks` if an earlier run has finished them."""
        checkpoint = self.paths.work / f"adapter-{name}.pt"
        if checkpoint.exists():
            rows = [TASKS.index(task) for task in tasks]
            parameters = self.model.adapter_parameters()
            for key, value in torch.load(checkpoint, map_location=self.device).items():
                parameters[key].data[rows] = value
        return checkpoint.exists()

    def run(self, name: str, tasks: list, seed: int, total: int, rate: float, loss_of) -> None:
        """Trains the adapters of `tasks` by `total` steps of `loss_of(random)`, and keeps them."""
        checkpoint = self.paths.work / f"adapter-{name}.pt"
        parameters = self.model.adapter_parameters()
        rows = [TASKS.index(task) for task in tasks]
        # the factor that starts as noise learns slower than the one that starts at zero
        noise = ["word_embeddings.lora_B", "token_type_embeddings.lora_B"]
        noise += [key for key in parameters if key.startswith("layers.") and key.endswith("lora_A")]
        trained = [key for key in parameters if "pooler" not in key]
        groups = [
            {"params": [parameters[key] for key in trained if key not in noise], "peak": rate},
            {"params": [parameters[key] for key in noise], "peak": self.schedule.adapter_noise_lr},
        ]
        optimizer = torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.98), fused=True)
        sums = 0.0
        for step in range(total):
            set_rate(optimizer, min(1.0, (step + 1) / 30) * max(0.02, 1 - step / total))
            loss = loss_of(np.random.default_rng([self.schedule.seed, seed, step]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            sums += loss.item()
            if step % 25 == 24:
                self.log(stage="adapter", name=name, step=step + 1, loss=sums / 25)
                sums = 0.0
        save({key: value.detach()[rows].clone() for key, value in parameters.items()}, checkpoint)


#: Weight of staying near the teacher for the adapters that learn from labels.
NEAR_TEACHER = 0.3


def draw_group(random, groups: dict, weights: dict):
    """One group's name by weight."""
    names = sorted(name for name in weights if name in groups)
    share = np.array([weights[name] for name in names])
    return names[random.choice(len(names), p=share / share.sum())]


def train_retrieval(trainer: Trainer) -> None:
    count = trainer.schedule.retrieval_batch
    query, passage = ("retrieval.query", "retrieval.passage")

    def loss(random):
        asked, passages, same = trainer.questions.draw(random, count)
        asked = trainer.embed(framed(asked, LONGEST_QUESTION, trainer.prefix[query]), query)
        passages = trainer.embed(framed(passages, LONGEST, trainer.prefix[passage]), passage)
        match = answers(asked, passages, torch.from_numpy(same).to(trainer.device))
        task = (query, passage)[int(random.integers(2))]
        return 3 * match + 0.5 * trainer.near_teacher(random, task, count // 2)

    trainer.run("retrieval", [query, passage], 11, trainer.schedule.retrieval_steps, trainer.schedule.adapter_lr, loss)


def train_labelled(trainer: Trainer, task: str, seed: int) -> None:
    rows = labelled(trainer.paths, task)
    texts = Texts(trainer.tokenizer, [row[2] for row in rows], task)
    codes = {label: index for index, label in enumerate(sorted({(row[0], row[1]) for row in rows}))}
    label = np.array([codes[row[0], row[1]] for row in rows])
    groups = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows):
        groups[row[0]][row[1]].append(index)
    count = 2 * trainer.schedule.adapter_batch

    def loss(random):
        group = groups[draw_group(random, groups, LABEL_WEIGHTS[task])]
        names = sorted(group)
        per_label = 4 if len(names) > 20 else max(4, count // len(names))
        kept = random.permutation(len(names))[: count // per_label]
        chosen = np.concatenate([random.choice(group[names[name]], per_label) for name in kept])
        vectors = trainer.embed(texts.batch(chosen), task)
        alike = same_label(vectors, torch.from_numpy(label[chosen]).to(trainer.device), trainer.dimensions)
        return alike + NEAR_TEACHER * trainer.near_teacher(random, task, count // 3)

    trainer.run(task, [task], seed, trainer.schedule.adapter_steps, trainer.schedule.label_lr, loss)


def train_matching(trainer: Trainer) -> None:
    """Graded pairs: the teacher's cosines among texts of which most come in close families."""
    task = "text-matching"
    items, count = trainer.items, 4 * trainer.schedule.adapter_batch

    def loss(random):
        chosen = items.draw_thinned(random, count, *GRADED)
        goal = torch.from_numpy(trainer.wanted[items.row[chosen]].astype(np.float32)).to(trainer.device)
        vectors = trainer.embed(with_instruction(items, chosen, []), task)
        rows = torch.from_numpy(items.row[chosen]).to(trainer.device)
        return distillation(vectors, goal, rows, trainer.dimensions)[0]

    trainer.run(task, [task], 15, trainer.schedule.matching_steps, trainer.schedule.matching_lr, loss)


#: Name of a training -> (its adapters, the function).
TRAININGS = {
    "retrieval": (["retrieval.query", "retrieval.passage"], train_retrieval),
    "classification": (["classification"], lambda trainer: train_labelled(trainer, "classification", 14)),
    "separation": (["separation"], lambda trainer: train_labelled(trainer, "separation", 13)),
    "text-matching": (["text-matching"], train_matching),
}


def train(
    model: Mini, items: Items, questions: Questions, wanted: np.ndarray, paths: Paths, schedule: Schedule, device, log,
    names: list,
) -> None:  # fmt: skip
    """Runs the trainings of `names` that are not finished. Adapters of different tasks may be trained side by side."""
    trainer = Trainer(model, items, questions, wanted, paths, schedule, device, log)
    for name in names:
        tasks, train_adapters = TRAININGS[name]
        if not trainer.kept(name, tasks):
            train_adapters(trainer)
