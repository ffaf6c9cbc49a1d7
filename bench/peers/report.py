"""Tables from the samples."""
from statistics import median

import workloads
from peer_onnxruntime import SETTINGS as _ORT
from peer_openvino import SETTINGS as _OPENVINO

INT8 = [name for name in (*_ORT, *_OPENVINO) if "int8" in name] + ["llama.cpp-q8_0"]
BF16 = ["transformers-bf16", "openvino-bf16"]
WAYS = {"singly": ", one at a time", "sorted": ", sorted, 8 at a time"}


def is_ours(name):
    return name.startswith("quintet-")


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


class Samples:
    """Times of one thread count by (workload, mode, peer), each with the run and repetition it is from."""

    def __init__(self, runs, clock):
        self.times, self.tokens = {}, {}
        for run_index, run in enumerate(runs):
            for s in run["samples"]:
                turn = (run_index, s["repetition"])
                self.times.setdefault((s["workload"], s["mode"], s["peer"]), {})[turn] = s["cpu_s" if clock == "cpu" else "seconds"]
                self.tokens[s["workload"]] = s["tokens"]

    def ways(self, workload):
        """Modes in which peers ran it; ours alone where none did."""
        modes = [mode for name, mode, peer in self.times if name == workload]
        peers = [mode for name, mode, peer in self.times if name == workload and not is_ours(peer)]
        return list(dict.fromkeys(peers or modes))

    def of(self, workload, mode, peer):
        return self.times.get((workload, workloads.modes(workload, True)[0] if is_ours(peer) else mode, peer), {})

    def rate(self, workload, mode, peer):
        times = self.of(workload, mode, peer)
        return self.tokens[workload] / median(times.values()) if times else None

    def ratio(self, workload, mode, peer, ours):
        """Median of (their time / our time) over the turns that both took."""
        theirs, mine = self.of(workload, mode, peer), self.of(workload, mode, ours)
        shared = theirs.keys() & mine.keys()
        return median(theirs[turn] / mine[turn] for turn in shared) if shared else None


def draw(results, clock):
    machine, runs = results["machine"], results["runs"]
    lines = ["# CPU: Quintet beside its peers", ""]
    if runs:
        loads = [load for run in runs for load in run["load"]]
        lines += [f"{runs[0]['date']} to {runs[-1]['date']}, {machine['cpu']}, {machine['cores']} cores ({', '.join(machine['features'])}), "
                  f"{machine['system']}; load average {min(loads):.1f} to {max(loads):.1f}. `bench/peers/run.py`; "
                  + ("CPU time" if clock == "cpu" else "wall time") + ", medians of interleaved repetitions.", ""]
    threads = sorted({run["threads"] for run in runs})
    drawn = {n: Samples([run for run in runs if run["threads"] == n], clock) for n in threads}
    for n in threads:
        lines += speed(n, drawn[n])
    lines += scaling(drawn) + resources(runs) + accuracy(results["accuracy"]) + settings(runs)
    return "\n".join(lines)


def speed(threads, samples):
    present = {peer for _, _, peer in samples.times}
    ours = [name for name in (f"quintet-{p}" for p in ("exact", "balanced", "fast")) if name in present]
    peers = list(dict.fromkeys(peer for _, _, peer in samples.times if not is_ours(peer)))
    names = [name.removeprefix("quintet-") for name in ours]
    lines = [f"## {threads} thread{'s' if threads > 1 else ''}", "",
             f"Real tokens/s; in brackets how many times as fast as that peer Quintet is: {', '.join(names)}.", ""]
    rows = []
    order = [name for name in workloads.NAMES if name in samples.tokens]
    for workload in order:
        for mode in samples.ways(workload):
            cells = [workload + WAYS.get(mode, "")]
            cells += [number(samples.rate(workload, mode, name)) for name in ours]
            for peer in peers:
                ratios = [samples.ratio(workload, mode, peer, name) for name in ours]
                rate = samples.rate(workload, mode, peer)
                cells.append(f"{rate:.0f} ({' / '.join(f'{r:.2f}' if r else '–' for r in ratios)})" if rate else "")
            rows.append(cells)
    lines += table(["workload", *(f"**{name}**" for name in names), *peers], rows)
    kinds = {"f32": [p for p in peers if p not in INT8 + BF16], "bf16": [p for p in peers if p in BF16], "8-bit": [p for p in peers if p in INT8]}
    kinds = {kind: members for kind, members in kinds.items() if members}
    if not kinds:
        return lines
    rows = []
    for workload in order:
        cells = [workload]
        for members in kinds.values():
            found = [(rate, peer, mode) for peer in members for mode in samples.ways(workload) if (rate := samples.rate(workload, mode, peer))]
            if not found:
                cells += [""] * (1 + len(ours))
                continue
            rate, peer, mode = max(found)
            cells.append(f"{peer} {rate:.0f}")
            cells += [f"{ratio:.2f}" if (ratio := samples.ratio(workload, mode, peer, name)) else "" for name in ours]
        rows.append(cells)
    head = ["workload"]
    for kind in kinds:
        head += [f"fastest {kind} peer", *names]
    return lines + ["Against the fastest peer of each kind, mixed lengths the way that suits it best:", ""] + table(head, rows)


def number(value):
    return f"{value:.0f}" if value else ""


def scaling(drawn):
    """Quintet's two threads over one, and adapters over none."""
    rows = []
    if 1 in drawn and 2 in drawn:
        for workload in workloads.NAMES:
            mode = workloads.modes(workload, True)[0]
            for name in ("quintet-exact", "quintet-balanced", "quintet-fast"):
                if workload in drawn[1].tokens and workload in drawn[2].tokens:
                    one, two = drawn[1].rate(workload, mode, name), drawn[2].rate(workload, mode, name)
                    if one and two:
                        rows.append([workload, name.removeprefix("quintet-"), f"{two / one:.2f}"])
    lines = ["## Two threads over one", "", *table(["workload", "precision", "ratio"], rows)] if rows else []
    rows = []
    for n, samples in drawn.items():
        for name in ("quintet-exact", "quintet-balanced", "quintet-fast"):
            with_tasks, without = samples.of("64 mixed, five tasks", "packed", name), samples.of("64 mixed, no adapter", "packed", name)
            if with_tasks and without:
                rows.append([str(n), name.removeprefix("quintet-"), f"{(median(with_tasks.values()) / median(without.values()) - 1) * 100:+.1f} %"])
    return lines + (["## Time of five tasks mixed over no adapter", "", *table(["threads", "precision", "more time"], rows)] if rows else [])


def resources(runs):
    """Peak memory and start of every program, from all runs."""
    if not runs:
        return []
    starts, memory = {}, {}
    for run in runs:
        for name, ready in run["peers"].items():
            starts.setdefault(name, []).append((run["threads"], ready["start_s"], ready["start_rss"]))
        for s in run["samples"]:
            kind = "short" if s["tokens"] <= 1024 else "mixed" if "mixed" in s["workload"] else s["workload"]
            memory.setdefault(s["peer"], {}).setdefault(kind, []).append(s["peak_rss"])
    kinds = [k for k in ("short", "mixed", "1x2048", "1x8192") if any(k in of_peer for of_peer in memory.values())]
    threads = sorted({t for of_peer in starts.values() for t, _, _ in of_peer})
    rows = []
    for name, of_peer in starts.items():
        first = [min((s for t, s, _ in of_peer if t == n), default=None) for n in threads]
        rows.append([name, *(f"{s:.2f}" if s else "" for s in first), f"{max(rss for _, _, rss in of_peer) / 1e9:.2f}",
                     *(f"{max(memory[name][k]) / 1e9:.2f}" if k in memory.get(name, {}) else "" for k in kinds)])
    labels = {"short": "up to 1024 tokens", "mixed": "mixed lengths"}
    return ["## Memory and start", "", "Seconds from the start of the process to its first vector (16 tokens), files in the page cache; Quintet "
            "with its tokenizer and packed weights, the others without a tokenizer; peak resident memory in GB until then and while workloads ran.", "",
            *table(["program", *(f"start, {n} thread{'s' if n > 1 else ''}" for n in threads), "GB at start",
                    *(f"GB, {labels.get(k, k)}" for k in kinds)], rows)]


def accuracy(found):
    lines = []
    for label, rows in found.items():
        lines += [f"## Vectors, {label}", "", "Four texts of 48 random tokens, one at a time, against transformers in f32.", "",
                  *table(["program", "min cosine", "worst component"],
                         [[name, f"{row['min_cosine']:.7f}", f"{row['worst_component']:.1e}"] for name, row in rows.items()])]
    return lines


def settings(runs):
    known = {name: ready for run in runs for name, ready in run["peers"].items()}
    if not known:
        return []
    return ["## Settings", ""] + [f"- {name}: {ready['setting']}. {ready['versions']}." for name, ready in known.items()] + [""]
