"""The page and the plot."""
import datetime
import os
import statistics
from pathlib import Path

import mix

KINDS = ["query", "passages", "document"]


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def ms(outcomes, share):
    value = percentile([o.latency_s for o in outcomes if o.status == 200], share)
    return "-" if value != value else f"{value * 1000:,.0f}"


def lost(outcomes):
    """Neither answered nor refused in order, or answered wrongly."""
    return [o for o in outcomes if (o.status == 200 and not o.right) or o.status not in (200, 503)]


def doubled(outcomes):
    ids = [o.request_id for o in outcomes if o.status]
    return len(ids) - len(set(ids))


def machine():
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "?")
    return f"{model}, {os.cpu_count()} cores"


def write(args, requests, measured, load_before):
    """Writes the page and the plot of what was measured; returns how many answers were lost, wrong or doubled."""
    plot_file = args.output.with_suffix(".png")
    lens = [len(ids) for request in requests for ids in request.token_ids]
    page, all_outcomes = [f"""# `quintet serve` under load

{datetime.date.today()}, {machine()}, {args.threads} thread(s) for the model, model {args.model}, precision {args.precision}; load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after. `python bench/load/load.py --threads {args.threads} --seconds {args.seconds:g} --rounds {args.rounds} --requests {args.requests} --parts {args.parts}`; the client runs on the same machine.

{len(requests)} different requests: {", ".join(f"{share:.0%} {kind}" for kind, share in mix.SHARES.items())}; texts of {percentile(lens, 0.5)} tokens in the median, {percentile(lens, 0.9)} at 90 %, {max(lens)} at most; {sum(lens) / len(requests):.0f} tokens a request. Every vector of every answer was compared with that of `quintet embed`."""], []
    for part in (saturation, rising, bulk, sigterm):
        lines, outcomes = part(args, measured)
        page += lines
        all_outcomes += outcomes
    if "rising" in args.parts and measured["steps"]:
        page.append(f"\n![latency and throughput by rate]({plot_file.name})")
        plot(measured, plot_file)
    if "peer" in measured:
        page.append(beside_peer(args, measured["peer"]))
    failures = lost(all_outcomes)
    page.append(f"""
## All answers

{len(all_outcomes)} requests, {sum(o.status == 200 for o in all_outcomes)} answered, {sum(o.status == 503 for o in all_outcomes)} refused with 503, {len(failures)} lost or wrong, {doubled(all_outcomes)} request ids twice.
""")
    if failures:
        page.append("\n".join(sorted({f"- {o.kind}, {o.status}: {o.words or 'another vector'}" for o in failures})[:20]))
    args.output.write_text("\n".join(page))
    return len(failures) + doubled(all_outcomes)


def saturation(args, measured):
    """Lines, and the outcomes that they rest on; so do the other parts."""
    if not measured["rounds"]:
        return [], []
    lines, outcomes = [f"""
## Saturation

{len(measured["rounds"])} rounds of `quintet bench` on the same texts and of the server with 64 requests in flight, taking turns; tokens/s.

| round | bench | server | ratio | bench, per CPU second | server, per CPU second | ratio |
| --- | --- | --- | --- | --- | --- | --- |"""], []
    for number, turn in enumerate(measured["rounds"], 1):
        bench, server = turn["bench"], turn["server"]
        outcomes += server["outcomes"]
        lines.append(f"| {number} | {bench['wall']:,.0f} | {server['wall']:,.0f} | {server['wall'] / bench['wall']:.3f} "
                     f"| {bench['cpu']:,.0f} | {server['cpu']:,.0f} | {server['cpu'] / bench['cpu']:.3f} |")
    return lines, outcomes


def rising(args, measured):
    if not measured["steps"]:
        return [], []
    lines, all_outcomes = [f"""
## Rising rates

Poisson arrivals, open loop, {args.seconds:g} s each, at shares of bench's {measured["capacity"]:,.0f} tokens/s. The queue was limited to {measured["queue_tokens"]:,} tokens. Latency in ms from the moment a request was due; `late` is how far the client itself was behind at most.

| share | requests/s | answered | refused | tokens/s | query p50 | p99 | passages p50 | p99 | document p50 | p99 | late | memory, MB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""], []
    for step in measured["steps"]:
        outcomes = step["outcomes"]
        all_outcomes += outcomes
        cells = [f"{step['share']:.2f}", f"{step['rate']:.1f}", str(sum(o.status == 200 for o in outcomes)),
                 str(sum(o.status == 503 for o in outcomes)), f"{step['tokens_per_s']:,.0f}"]
        for kind in KINDS:
            of_kind = [o for o in outcomes if o.kind == kind]
            cells += [ms(of_kind, 0.5), ms(of_kind, 0.99)]
        lines.append(f"| {' | '.join(cells)} | {step['late_s'] * 1000:.0f} | {step['memory_kib'] / 1024:.0f} |")
    return lines, all_outcomes


def bulk(args, measured):
    if not measured["beside_bulk"]:
        return [], []
    lines, all_outcomes = [f"""
## Short queries beside bulk work

10 queries a second for {args.seconds:g} s while 32 requests of passages or 6 documents are always in flight; ms.

| beside | queries | p50 | p90 | p99 | most | bulk, tokens/s |
| --- | --- | --- | --- | --- | --- | --- |"""], []
    for name, case in measured["beside_bulk"].items():
        queries, load = case["queries"], case["bulk"]
        all_outcomes += queries + load
        span = max(o.ended for o in load) - min(o.sent for o in load) if load else 1
        lines.append(f"| {name} | {len(queries)} | {ms(queries, 0.5)} | {ms(queries, 0.9)} | {ms(queries, 0.99)} "
                     f"| {ms(queries, 1)} | {sum(o.tokens for o in load if o.status == 200) / span:,.0f} |")
    return lines, all_outcomes


def sigterm(args, measured):
    if "terminated" not in measured:
        return [], []
    stop = measured["terminated"]
    before, waiting, after = stop["before"], stop["waiting"], stop["after"]
    broken = [o for o in before if o.status == 0]
    lines = [f"""
## SIGTERM in mid-load

At 1.2 of capacity. {len(before)} requests were sent before the signal, {len(waiting)} of them had no answer yet: {sum(o.right for o in waiting)} were answered in full, {sum(o.status == 503 for o in waiting)} refused in order, {len(broken)} lost. The last answer came {stop["stopped_s"]:.1f} s after the signal; exit code {stop["code"]}. Of {len(after)} sent afterwards {sum(o.status == 200 for o in after)} were answered, {sum(o.status == 503 for o in after)} refused, {sum(o.status == 0 for o in after)} found nobody."""]
    if broken:
        lines.append("\n" + "\n".join(sorted({f"- {o.words}" for o in broken})))
    return lines, before


def beside_peer(args, peer):
    ours, theirs = (peer["tokens_per_s"][name] for name in ("quintet", "peer"))
    lines = [f"""
## Beside a peer

`peer.py`: FastAPI, uvicorn and transformers' own model on PyTorch with {args.threads} thread(s), the same weights with each task's adapter merged, a batch per request padded after sorting by length; the least cosine between its vectors and ours is {peer["worst_cosine"]:.7f}. A quarter of the requests, 64 in flight, taking turns; tokens/s: Quintet {", ".join(f"{value:,.0f}" for value in ours)}, peer {", ".join(f"{value:,.0f}" for value in theirs)}: **{statistics.mean(ours) / statistics.mean(theirs):.2f} times**.

Poisson arrivals at {peer["rate"]:.1f} requests/s, half of the peer's capacity, ms:

| | answered | query p50 | p99 | passages p50 | p99 | document p50 | p99 |
| --- | --- | --- | --- | --- | --- | --- | --- |"""]
    for name, outcomes in peer["latencies"].items():
        cells = [name, str(sum(o.status == 200 for o in outcomes))]
        for kind in KINDS:
            of_kind = [o for o in outcomes if o.kind == kind]
            cells += [ms(of_kind, 0.5), ms(of_kind, 0.99)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(measured, file):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (latency, work) = pyplot.subplots(2, 1, figsize=(8, 8), sharex=True)
    steps = measured["steps"]
    rates = [step["rate"] for step in steps]
    for kind, colour in zip(KINDS, ["tab:blue", "tab:orange", "tab:green"], strict=True):
        for share, style in ((0.5, "-"), (0.99, "--")):
            values = [percentile([o.latency_s * 1000 for o in step["outcomes"] if o.kind == kind and o.status == 200], share)
                      for step in steps]
            latency.plot(rates, values, style, color=colour, marker="o", label=f"{kind}, p{share * 100:.0f}")
    latency.set(yscale="log", ylabel="ms from due to answer")
    latency.legend()
    work.plot(rates, [step["tokens_per_s"] for step in steps], marker="o", label="tokens/s answered")
    work.axhline(measured["capacity"], color="grey", linestyle=":", label="quintet bench on the same texts")
    work.set(ylabel="tokens/s", xlabel="requests/s", ylim=(0, None))
    refused = work.twinx()
    shares = [100 * sum(o.status == 503 for o in s["outcomes"]) / max(1, len(s["outcomes"])) for s in steps]
    refused.plot(rates, shares, "s--", color="tab:red", label="refused, %")
    refused.set(ylim=(0, 100), ylabel="refused, %")
    lines = [line for axis in (work, refused) for line in axis.get_lines()]
    work.legend(lines, [line.get_label() for line in lines], loc="upper left")
    for axis in (latency, work):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
