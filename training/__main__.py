"""`python -m training`: makes mini from the text in `--data`, stage by stage; a finished stage is skipped."""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer

from . import adapters, body, card, corpus, export, inherit, plot, static, teacher, tokenizer
from .items import Items, targets
from .log import Log
from .model import Mini
from .questions import Questions
from .settings import Paths, Schedule, Shape, describe
from .static import save

STAGES = ["tokenizer", "teacher", "static", "body", "adapters", "export", "plot", "card"]


def main() -> None:
    defaults = Paths()
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(STAGES)}; all but card if none is named")
    parser.add_argument("--data", type=Path, default=defaults.data, help="folder with train/ and data/")
    parser.add_argument("--work", type=Path, default=defaults.work, help="caches and checkpoints")
    parser.add_argument("--model", type=Path, default=defaults.model, help="where the export is written")
    parser.add_argument(
        "--adapters", nargs="+", choices=adapters.TRAININGS, default=list(adapters.TRAININGS), help="only these"
    )
    parser.add_argument("--start-from", type=Path, help="an earlier export, which takes the place of the static stage")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="torch.compile: a third faster, needs a C++ compiler")
    for name, value in vars(Schedule()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = parser.parse_args()
    unknown = set(arguments.stages) - set(STAGES)
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    run(arguments)


def run(arguments) -> None:
    torch.set_num_threads(arguments.threads)
    paths = Paths(arguments.data, arguments.work, arguments.model)
    shape = Shape()
    schedule = Schedule(**{name: getattr(arguments, name) for name in vars(Schedule())})
    paths.work.mkdir(parents=True, exist_ok=True)
    log = Log(paths.work / "log.jsonl")
    stages = arguments.stages or STAGES[:-1]
    log(stage="start", stages=stages, **describe(shape, schedule))
    if "tokenizer" in stages and not (paths.work / "tokenizer.json").exists():
        tokenizer.build(paths, shape, schedule, arguments.threads, paths.work / "tokenizer.json")
        log(stage="tokenizer", done=True)
    if "teacher" in stages:
        texts = corpus.load(paths, schedule.seed).english
        teacher.extend(paths.work, texts, schedule.teacher_sentences, arguments.threads, log)
    if {"static", "body", "adapters"} & set(stages):
        train(stages, paths, shape, schedule, log, arguments)
    if "export" in stages:
        model = Mini(shape)
        model.load_state_dict(torch.load(paths.work / "final.pt", map_location="cpu")["model"])
        files = export.write(model, paths.work / "tokenizer.json", paths.model)
        log(stage="export", files=files)
    if "plot" in stages:
        plot.draw(paths.work / "log.jsonl", paths.model.parent / "loss.png")
    if "card" in stages:
        card.write(paths, paths.work / "eval.json", paths.model.parent / "README.md")


def train(stages: list, paths: Paths, shape: Shape, schedule: Schedule, log: Log, arguments) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(schedule.seed)
    items = Items(paths, schedule, log)
    wanted = targets(paths, shape, schedule, log)
    items.find_families(wanted)
    questions = Questions(items, Tokenizer.from_file(str(paths.work / "tokenizer.json")), paths)
    model = Mini(shape).to(device)
    static.start(model)
    # one program for every shape of a batch, for most batches are of a shape of their own
    encoder = torch.compile(model, dynamic=True) if arguments.compile else model
    if "static" in stages and not arguments.start_from:
        static.train(model, items, wanted, paths, schedule, device, log)
    if "body" in stages:
        added = None
        if arguments.start_from:
            added = inherit.start(model, items, wanted, paths, arguments.start_from, device, log)
        elif "static" not in stages:
            model.load_state_dict(torch.load(paths.work / "static.pt", map_location=device)["model"])
        body.train(model, encoder, items, wanted, paths, schedule, device, log, added)
    if "adapters" in stages:
        if "body" not in stages:
            model.load_state_dict(torch.load(paths.work / "body.pt", map_location=device)["model"])
        adapters.train(model, items, questions, wanted, paths, schedule, device, log, arguments.adapters)
        if set(arguments.adapters) == set(adapters.TRAININGS):
            save({"model": model.state_dict()}, paths.work / "final.pt")


if __name__ == "__main__":
    main()
