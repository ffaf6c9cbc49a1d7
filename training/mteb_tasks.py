"""Some of the sets through the real `mteb` package, its tasks fed from the local files instead of the hub.

`python -m training.evaluate --mteb` runs it; `pip install mteb` first. It shows that the figures of `evaluate`
are MTEB's.
"""

import csv
from pathlib import Path

import numpy as np

from .evaluate import LANGUAGES, OWN_ADAPTER, Cached, read_lines

#: Name of the task in mteb -> the set whose adapters it gets.
TASKS = {"STSBenchmark": "sts", "Tatoeba": "tatoeba", "Banking77Classification": "banking77"}


def run(backend, data: Path, languages: list) -> list:
    """Rows like those of `evaluate.evaluate`, with the own adapter, all dimensions and mteb's main score."""
    import mteb
    from mteb.models.model_meta import ModelMeta

    cached = Cached(backend)
    dimensions = backend.dimensions[-1]

    class Encoder:
        """mteb's protocol; the task's own adapter, as jina-embeddings-v3 is run there."""

        mteb_model_meta = ModelMeta.create_empty({"name": "quintet/local", "revision": "local"})

        def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **_):
            texts = [text for batch in inputs for text in batch["text"]]
            task = OWN_ADAPTER[TASKS[task_metadata.name]][0] if backend.tasks else None
            return cached.get(texts, task, dimensions)

        def similarity(self, first, second):
            return np.asarray(first) @ np.asarray(second).T

        def similarity_pairwise(self, first, second):
            return (np.asarray(first) * np.asarray(second)).sum(1)

    rows = []
    for name, set_name in TASKS.items():
        task, language_of = loaded(mteb, name, data, languages)
        result = mteb.evaluate(Encoder(), task, cache=None, co2_tracker=False, show_progress_bar=False)
        for part in result.task_results[0].scores["test"]:
            language = language_of.get(part["hf_subset"], "en")
            rows.append({"set": set_name, "task": name, "language": language, "main_score": part["main_score"]})
    return rows


def loaded(mteb, name: str, data: Path, languages: list):
    """The task with its data, and language of each of its subsets."""
    from datasets import Dataset, DatasetDict

    subsets = {}
    if name == "STSBenchmark":
        with open(data / "stsb-multi-mt" / "stsb-en-test.csv", encoding="utf8") as file:
            first, second, grade = zip(*(row for row in csv.reader(file) if len(row) == 3), strict=True)
        columns = {"sentence1": list(first), "sentence2": list(second), "score": [float(value) for value in grade]}
        dataset = DatasetDict(test=Dataset.from_dict(columns))
    elif name == "Banking77Classification":
        dataset = DatasetDict()
        for split in ("train", "test"):
            with open(data / "banking77" / f"{split}.csv", encoding="utf8") as file:
                rows = list(csv.DictReader(file))
            columns = {"text": [row["text"] for row in rows], "label": [row["category"] for row in rows]}
            dataset[split] = Dataset.from_dict(columns)
    else:
        dataset = {}
        for language in languages:
            code = LANGUAGES[language][1]
            # Latvian is `lvs` in mteb too; all names agree with the files
            if code is not None:
                subset = f"{code}-eng"
                subsets[subset] = language
                stem = data / "tatoeba" / f"tatoeba.{code}-eng"
                columns = {"sentence1": read_lines(f"{stem}.{code}"), "sentence2": read_lines(f"{stem}.eng")}
                dataset[subset] = DatasetDict(test=Dataset.from_dict(columns))
    task = mteb.get_task(name, hf_subsets=list(subsets) or None)
    task.dataset, task.data_loaded = dataset, True
    return task, subsets
