"""Measures embeddings on the sets of `shared/data`, with the metrics of MTEB, for any backend.

python -m training.evaluate --model crates/mini/model                       # PyTorch, the reference
python -m training.evaluate --model DIR --quintet target/release/quintet    # Quintet's own engine
python -m training.evaluate --teacher                                       # all-MiniLM-L6-v2, English
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from training.settings import INSTRUCTIONS, LANGUAGES, TASKS, Paths
else:
    from .settings import INSTRUCTIONS, LANGUAGES, TASKS, Paths

STS_LANGUAGES = ["en", "de", "es", "fr", "ru", "zh"]
XQUAD_LANGUAGES = ["en", "ar", "de", "hi", "th", "zh"]
SETS = ["sts", "tatoeba", "xquad", "sib-classification", "sib-clustering", "banking77", "sib-clustering-all"]
#: Without the last, which mixes in a train split.
USUAL_SETS = SETS[:-1]

#: The adapters that MTEB gives a task of each kind (first text, second text).
OWN_ADAPTER = {
    "sts": ("text-matching", "text-matching"),
    "tatoeba": ("text-matching", "text-matching"),
    "xquad": ("retrieval.query", "retrieval.passage"),
    "sib-classification": ("classification", "classification"),
    "sib-clustering": ("separation", "separation"),
    "sib-clustering-all": ("separation", "separation"),
    "banking77": ("classification", "classification"),
}

#: Main figure of each set, and the name it has in the table.
MAIN_METRIC = {
    "sts": "spearman",
    "tatoeba": "accuracy",
    "xquad": "ndcg_at_10",
    "sib-classification": "accuracy",
    "sib-clustering": "v_measure",
    "sib-clustering-all": "v_measure",
    "banking77": "accuracy",
}

SEED = 42


# ---------------------------------------------------------------- backends


class TorchBackend:
    """An exported folder through the PyTorch model of this package."""

    def __init__(self, folder: Path, threads: int, bf16: bool = False):
        import torch
        from tokenizers import Tokenizer

        from training.export import load_model

        torch.set_num_threads(threads)
        self.torch = torch
        self.precision = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        self.model = load_model(folder).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        limit = self.model.shape.max_position_embeddings - 2
        self.tokenizer.enable_truncation(limit)
        self.dimensions = self.model.shape.matryoshka_dimensions
        self.tasks = list(TASKS)
        self.name = "torch"

    def embed(self, texts: list, task: str | None) -> np.ndarray:
        from training.model import padded

        prefix = INSTRUCTIONS[task] if task else ""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch([prefix + text for text in texts])]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        result = np.zeros((len(rows), self.model.shape.hidden_size), np.float32)
        adapter = TASKS.index(task) if task else None
        with self.torch.inference_mode(), self.precision:
            while order:
                count = max(1, 8_192 // len(rows[order[-1]]))
                batch, order = order[-count:], order[:-count]
                result[batch] = self.model(padded([rows[row] for row in batch]), adapter).float().numpy()
        return result


class TeacherBackend:
    """all-MiniLM-L6-v2. It knows no tasks, and English only."""

    def __init__(self, threads: int):
        import torch

        from training.teacher import WIDTH, Teacher

        torch.set_num_threads(threads)
        self.teacher = Teacher(torch.float32)
        self.dimensions = [WIDTH]
        self.tasks = []
        self.name = "teacher"

    def embed(self, texts: list, task: str | None) -> np.ndarray:
        return self.teacher.encode(texts)


class QuintetBackend:
    """A folder through the `quintet` program, one run a task. The program adds the instruction itself."""

    def __init__(self, program: Path, folder: Path, precision: str):
        self.program, self.folder, self.precision = program, folder, precision
        config = json.loads((folder / "config.json").read_text())
        self.dimensions = config["matryoshka_dimensions"]
        self.tasks = config["lora_adaptations"]
        self.name = "quintet"

    def embed(self, texts: list, task: str | None) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            lines, output = Path(folder) / "texts.jsonl", Path(folder) / "vectors.npy"
            with open(lines, "w", encoding="utf8") as file:
                for text in texts:
                    print(json.dumps({"text": text}, ensure_ascii=False), file=file)
            command = [self.program, "embed", "--model", self.folder, "--input", lines, "--format", "npy"]
            command += ["--output", output, "--task", task or "raw", "--precision", self.precision]
            subprocess.run([str(part) for part in command], check=True, stdin=subprocess.DEVNULL)
            return np.load(output).astype(np.float32)


class Cached:
    """Embeds each distinct text once a task."""

    def __init__(self, backend):
        self.backend = backend
        self.row = defaultdict(dict)
        self.vectors = {}
        self.seconds = 0.0
        self.texts = 0

    def prepare(self, texts: list, task: str | None) -> None:
        known = self.row[task]
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if not missing:
            return
        began = time.monotonic()
        made = self.backend.embed(missing, task)
        self.seconds += time.monotonic() - began
        self.texts += len(missing)
        for text in missing:
            known[text] = len(known)
        old = self.vectors.get(task)
        self.vectors[task] = made if old is None else np.concatenate([old, made])

    def get(self, texts: list, task: str | None, dimensions: int) -> np.ndarray:
        """[texts, dimensions], cut and then of unit length."""
        self.prepare(texts, task)
        known = self.row[task]
        return unit(self.vectors[task][[known[text] for text in texts], :dimensions])


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


# ---------------------------------------------------------------- metrics, as MTEB defines them


def spearman(first: np.ndarray, second: np.ndarray, grades: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr((first * second).sum(1), grades)[0])


def bitext(first: np.ndarray, second: np.ndarray) -> dict:
    """Nearest text of the second language for each of the first; weighted F1 is MTEB's main score."""
    from sklearn.metrics import f1_score

    gold = np.arange(len(first))
    found = (first @ second.T).argmax(1)
    f1 = f1_score(gold, found, average="weighted", zero_division=0)
    return {"accuracy": float((found == gold).mean()), "f1": float(f1)}


def retrieval(queries: np.ndarray, documents: np.ndarray, gold: np.ndarray) -> dict:
    """One relevant document a query, so the ideal gain is 1."""
    ranked = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
    hit = ranked == gold[:, None]
    gain = hit / np.log2(np.arange(10) + 2)
    return {"ndcg_at_10": float(gain.sum(1).mean()), "accuracy_at_1": float(hit[:, 0].mean())}


def few_shot(train: np.ndarray, train_labels: list, test: np.ndarray, test_labels: list) -> float:
    """Mean accuracy of ten logistic regressions on eight texts a label (AbsTaskClassification)."""
    shuffle = np.random.RandomState(SEED)
    order = np.arange(len(train_labels))
    scores = []
    for _ in range(10):
        shuffle.shuffle(order)
        count, chosen = defaultdict(int), []
        for row in order:
            if count[train_labels[row]] < 8:
                chosen.append(row)
                count[train_labels[row]] += 1
        scores.append(regression(train[chosen], [train_labels[row] for row in chosen], test, test_labels))
    return float(np.mean(scores))


def regression(train: np.ndarray, train_labels: list, test: np.ndarray, test_labels: list) -> float:
    import warnings

    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(random_state=SEED, max_iter=100).fit(train, train_labels)
    return float(model.score(test, test_labels))


def v_measure(vectors: np.ndarray, labels: list) -> float:
    """Mean of ten k-means runs on draws with replacement (AbsTaskClusteringFast)."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    shuffle = random.Random(SEED)
    labels = np.array(labels)
    scores = []
    for _ in range(10):
        chosen = shuffle.choices(range(len(labels)), k=2_048)
        model = MiniBatchKMeans(len(set(labels)), batch_size=512, n_init="auto", random_state=SEED)
        scores.append(v_measure_score(labels[chosen], model.fit(vectors[chosen]).labels_))
    return float(np.mean(scores))


# ---------------------------------------------------------------- sets: language -> metrics


def sts(data: Path, languages: list, embed) -> dict:
    result = {}
    for language in languages:
        if language not in STS_LANGUAGES:
            continue
        with open(data / "stsb-multi-mt" / f"stsb-{language}-test.csv", encoding="utf8") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3]
        vectors = embed([row[0] for row in rows] + [row[1] for row in rows], 0)
        grades = np.array([float(row[2]) for row in rows])
        result[language] = {"spearman": spearman(vectors[: len(rows)], vectors[len(rows) :], grades)}
    return result


def tatoeba(data: Path, languages: list, embed) -> dict:
    result = {}
    for language in languages:
        code = LANGUAGES[language][1]
        if code is None:
            continue
        stem = data / "tatoeba" / f"tatoeba.{code}-eng"
        other, english = (read_lines(f"{stem}.{side}") for side in (code, "eng"))
        result[language] = bitext(embed(other, 0), embed(english, 1))
    return result


def read_lines(path: str) -> list:
    return Path(path).read_text(encoding="utf8").rstrip("\n").split("\n")


def xquad(data: Path, languages: list, embed) -> dict:
    result = {}
    for language in languages:
        if language not in XQUAD_LANGUAGES:
            continue
        document = json.loads((data / "xquad" / f"xquad.{language}.json").read_text(encoding="utf8"))
        passages, questions, gold = [], [], []
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                questions += [answer["question"] for answer in paragraph["qas"]]
                gold += [len(passages)] * len(paragraph["qas"])
                passages.append(paragraph["context"])
        result[language] = retrieval(embed(questions, 0), embed(passages, 1), np.array(gold))
    return result


def read_sib(data: Path, language: str, split: str):
    with open(data / "sib200" / LANGUAGES[language][0] / f"{split}.tsv", encoding="utf8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["text"] for row in rows], [row["category"] for row in rows]


def sib_classification(data: Path, languages: list, embed) -> dict:
    """`accuracy` is MTEB's (eight texts a label); `accuracy_full` fits on the whole train split."""
    result = {}
    for language in languages:
        train, train_labels = read_sib(data, language, "train")
        test, test_labels = read_sib(data, language, "test")
        parts = embed(train, 0), train_labels, embed(test, 0), test_labels
        result[language] = {"accuracy": few_shot(*parts), "accuracy_full": regression(*parts)}
    return result


def sib_clustering(data: Path, languages: list, embed) -> dict:
    """`v_measure` is of the test split, which no training has seen."""
    result = {}
    for language in languages:
        texts, labels = read_sib(data, language, "test")
        result[language] = {"v_measure": v_measure(embed(texts, 0), labels)}
    return result


def sib_clustering_all(data: Path, languages: list, embed) -> dict:
    """The three splits together, as MTEB's SIB200ClusteringS2S has it."""
    result = {}
    for language in languages:
        splits = [read_sib(data, language, split) for split in ("train", "dev", "test")]
        texts = [text for split in splits for text in split[0]]
        labels = [label for split in splits for label in split[1]]
        result[language] = {"v_measure": v_measure(embed(texts, 0), labels)}
    return result


def banking77(data: Path, languages: list, embed) -> dict:
    texts = {}
    for split in ("train", "test"):
        with open(data / "banking77" / f"{split}.csv", encoding="utf8") as file:
            rows = list(csv.DictReader(file))
        texts[split] = [row["text"] for row in rows], [row["category"] for row in rows]
    train, test = texts["train"], texts["test"]
    return {"en": {"accuracy": few_shot(embed(train[0], 0), train[1], embed(test[0], 0), test[1])}}


RUN = {
    "sts": sts,
    "tatoeba": tatoeba,
    "xquad": xquad,
    "sib-classification": sib_classification,
    "sib-clustering": sib_clustering,
    "sib-clustering-all": sib_clustering_all,
    "banking77": banking77,
}


# ---------------------------------------------------------------- a whole measurement


def evaluate(backend, data: Path, sets: list, languages: list, dimensions: list, every_adapter: bool) -> list:
    """Rows of (set, adapter, dimensions, language, metrics)."""
    cached = Cached(backend)
    rows = []
    for name in sets:
        adapters = {"none": (None, None)}
        if backend.tasks:
            if every_adapter:
                adapters |= {task: (task, task) for task in backend.tasks}
            own = OWN_ADAPTER[name]
            adapters["+".join(dict.fromkeys(own))] = own
        for adapter, tasks in adapters.items():
            for size in dimensions:
                embed = lambda texts, side: cached.get(texts, tasks[side], size)  # noqa: B023
                for language, metrics in RUN[name](data, languages, embed).items():
                    rows.append({"set": name, "adapter": adapter, "dimensions": size, "language": language, **metrics})
            done = summary(rows, name, adapter, dimensions[-1])
            print(f"{name:20} {adapter:34} {done}", file=sys.stderr, flush=True)
    print(f"embedded {cached.texts} texts in {cached.seconds:.0f} s", file=sys.stderr)
    return rows


def values(rows: list, name: str, adapter: str, size: int, metric: str | None = None) -> dict:
    """language -> figure in percent."""
    metric = metric or MAIN_METRIC[name]
    return {
        row["language"]: 100 * row[metric]
        for row in rows
        if (row["set"], row["adapter"], row["dimensions"]) == (name, adapter, size) and metric in row
    }


def summary(rows: list, name: str, adapter: str, size: int) -> str:
    found = values(rows, name, adapter, size)
    if not found:
        return "-"
    worst = min(found, key=found.get)
    english = f"en {found['en']:5.1f}  " if "en" in found else ""
    others = [value for language, value in found.items() if language != "en"]
    rest = f"others {np.mean(others):5.1f}  " if others else ""
    return f"{english}{rest}mean {np.mean(list(found.values())):5.1f}  worst {worst} {found[worst]:5.1f}"


def table(rows: list) -> str:
    """Markdown: one line a set and adapter, one column a number of dimensions."""
    sizes = sorted({row["dimensions"] for row in rows})
    lines = ["| set | adapter | part | " + " | ".join(map(str, sizes)) + " |", "|---" * (3 + len(sizes)) + "|"]
    for name, adapter in dict.fromkeys((row["set"], row["adapter"]) for row in rows):
        parts = {}
        for size in sizes:
            found = values(rows, name, adapter, size)
            if "en" in found:
                parts.setdefault("English", {})[size] = found["en"]
            others = [value for language, value in found.items() if language != "en"]
            if others:
                parts.setdefault(f"mean of {len(others)} others", {})[size] = np.mean(others)
                parts.setdefault("worst", {})[size] = min(others)
        for part, cells in parts.items():
            shown = " | ".join(f"{cells[size]:.1f}" if size in cells else "" for size in sizes)
            lines.append(f"| {name} ({MAIN_METRIC[name]}) | {adapter} | {part} | {shown} |")
    return "\n".join(lines)


def language_table(rows: list, size: int) -> str:
    """Markdown: one line a language, each set with its own adapter."""
    columns = {name: values(rows, name, "+".join(dict.fromkeys(OWN_ADAPTER[name])), size) for name in SETS}
    columns = {name: found for name, found in columns.items() if found} or {
        name: values(rows, name, "none", size) for name in SETS
    }
    lines = ["| language | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for language in LANGUAGES:
        cells = [f"{found[language]:.1f}" if language in found else "" for found in columns.values()]
        if any(cells):
            lines.append(f"| {language} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list, path: Path) -> None:
    """Quality against dimensions, and a bar a language."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted({row["dimensions"] for row in rows})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), width_ratios=[1, 2])
    for index, name in enumerate(dict.fromkeys(row["set"] for row in rows)):
        for adapter, style in (("none", ":"), ("+".join(dict.fromkeys(OWN_ADAPTER[name])), "-")):
            means = [list(values(rows, name, adapter, size).values()) for size in sizes]
            if all(means):
                shown = name if style == "-" else None
                left.plot(sizes, [np.mean(mean) for mean in means], style, color=f"C{index}", marker=".", label=shown)
    left.set_xscale("log", base=2)
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.set(xlabel="dimensions", ylabel="percent, mean of the languages", title="own adapter (line), none (dots)")
    left.legend(fontsize=7)
    names = [name for name in ("tatoeba", "sib-classification") if any(row["set"] == name for row in rows)]
    for index, name in enumerate(names):
        adapters = dict.fromkeys(row["adapter"] for row in rows if row["set"] == name)
        found = values(rows, name, list(adapters)[-1], sizes[-1])
        place = [list(LANGUAGES).index(language) + 0.4 * index for language in found]
        right.bar(place, list(found.values()), 0.4, label=name, color=f"C{SETS.index(name)}")
    right.set_xticks(np.arange(len(LANGUAGES)) + 0.2, list(LANGUAGES))
    right.set(title="each language, all dimensions", ylabel="percent")
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def check(backend, arguments) -> None:
    """Prints mteb's main scores; with `--json` writes them."""
    from training import mteb_tasks

    rows = mteb_tasks.run(backend, arguments.data, arguments.languages)
    for name in dict.fromkeys(row["task"] for row in rows):
        found = [100 * row["main_score"] for row in rows if row["task"] == name]
        print(f"{name:30} {np.mean(found):6.2f}  mean of {len(found)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"backend": backend.name, "rows": rows}, indent=0), encoding="utf8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Paths().evaluation, help="folder with the evaluation sets")
    parser.add_argument("--model", type=Path, default=Paths().model)
    parser.add_argument("--quintet", type=Path, help="the program; without it PyTorch computes")
    parser.add_argument("--precision", default="exact", help="of the program: exact, balanced or fast")
    parser.add_argument("--teacher", action="store_true", help="measure all-MiniLM-L6-v2 instead")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=USUAL_SETS)
    parser.add_argument("--languages", nargs="+", choices=list(LANGUAGES), default=list(LANGUAGES))
    parser.add_argument("--dimensions", nargs="+", type=int)
    parser.add_argument("--every-adapter", action="store_true", help="each adapter on each set, not its own only")
    parser.add_argument("--mteb", action="store_true", help="STS-B, Tatoeba and Banking77 by the mteb package itself")
    parser.add_argument("--bf16", action="store_true", help="PyTorch: products in bf16, faster and less exact")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plot", type=Path, help="write a PNG here")
    arguments = parser.parse_args()
    if arguments.teacher:
        backend = TeacherBackend(arguments.threads)
    elif arguments.quintet:
        backend = QuintetBackend(arguments.quintet, arguments.model, arguments.precision)
    else:
        backend = TorchBackend(arguments.model, arguments.threads, arguments.bf16)
    if arguments.mteb:
        check(backend, arguments)
        return
    dimensions = arguments.dimensions or backend.dimensions
    languages = ["en"] if arguments.teacher else arguments.languages
    rows = evaluate(backend, arguments.data, arguments.sets, languages, dimensions, arguments.every_adapter)
    print(table(rows), "", language_table(rows, dimensions[-1]), sep="\n")
    if arguments.json:
        document = {"backend": backend.name, "dimensions": dimensions, "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=0), encoding="utf8")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
