"""Writes testdata/goldens from testdata/checkpoints: what transformers' own model answers, in float32.

    python make_checkpoints.py --goldens

Tensors are float32 unless said; <task> is `none` or one of the five tasks.

sequences.safetensors, gguf_q8_0.safetensors (adapters from gguf/, base dequantised) and custom_adapter.safetensors
(<task> is `custom`, over the base) all hold
    seq/<name>/input_ids                       int64 [tokens], specials included, to be fed as they are
    seq/<name>/<task>/last_hidden_state        [tokens, 128], up to 64 tokens
    seq/<name>/hidden_rows                     int64 [rows], beyond 64 tokens
    seq/<name>/<task>/last_hidden_state_rows   [rows, 128]
    seq/<name>/<task>/pooled                   [128], mean over all tokens
    seq/<name>/<task>/normalized               [128], pooled / its L2 norm
    seq/<name>/<task>/truncated_<d>            [d], first d of pooled, then L2; some sequences only
late.safetensors (task retrieval.passage and none), cases in goldens.json:
    late/<case>/input_ids, late/<case>/spans_repo, spans_text_only   int64
    late/<case>/<task>/repo_pooled, repo_normalized, text_only_normalized   [chunks, 128]
text.json: token ids of texts; text.safetensors: text/<index>/<task>/normalized for the first texts
output_types.json: vectors and their int8, uint8, binary, ubinary and base64 forms
goldens.json: the list of cases, and how far apart the independent ways to the same number were
"""
import base64
import json
from pathlib import Path

import gguf
import numpy as np
import peft
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

import reference as ref
from make_checkpoints import CHECKPOINTS, SEED, gguf_name, is_gguf_matrix, write_json
from reference import ADAPTER_FOLDER, INSTRUCTIONS, NONE, TASKS, TINY, hidden_states, l2

GOLDENS = Path(__file__).parent / "goldens"
LENGTHS = [1, 2, 3, 7, 20, 33, 64, 130, 300, 513, 8192]
TRUNCATED = ["len3", "len20", "len130"]  # sequences with Matryoshka cuts
DIMENSIONS = [16, 32, 64, 128, 50, 1]
FULL_HIDDEN = 64
MAX_TOKENS = 8192
HIDDEN_NOISE = 2e-5  # of float32 hidden states, whose largest components are near 10


def load_weights(layout):
    return {n: t.float() for n, t in load_file(CHECKPOINTS / layout / "model.safetensors").items()}


# --- sequences ----------------------------------------------------------------------------------------------------
def make_sequences():
    """{name: ids}: <s> body </s>; the one of length 1 is <s> alone."""
    generator = torch.Generator().manual_seed(SEED + 77)
    sequences = {}
    for n in LENGTHS:
        body = torch.randint(4, TINY.vocab - 1, (max(n - 2, 0),), generator=generator)
        ids = torch.cat([torch.tensor([0]), body, torch.tensor([2])])[:n]
        if n == 20:
            ids[5:10] = torch.tensor([1, 3, TINY.vocab - 1, 0, 2])  # pad, unk, mask, <s>, </s> as ordinary tokens
        sequences[f"len{n}"] = ids
    return sequences


def sequence_goldens(out, name, ids, task, model):
    hidden = hidden_states(model, ids)
    key = f"seq/{name}/"
    out[key + "input_ids"] = ids
    if len(ids) <= FULL_HIDDEN:
        out[f"{key}{task}/last_hidden_state"] = hidden
    else:
        rows = torch.tensor(sorted({0, 1, 2, 63, 64, len(ids) // 2, len(ids) - 2, len(ids) - 1}))
        out[key + "hidden_rows"] = rows
        out[f"{key}{task}/last_hidden_state_rows"] = hidden[rows]
    pooled = hidden.mean(0)
    out[f"{key}{task}/pooled"], out[f"{key}{task}/normalized"] = pooled, l2(pooled)
    if name in TRUNCATED:
        for d in DIMENSIONS:
            out[f"{key}{task}/truncated_{d}"] = l2(pooled[:d])


def model_for(weights, task, ids):
    """Eager attention; sdpa for the long sequence, whose scores would fill the memory."""
    return ref.build_model(TINY, ref.merged(TINY, weights, task), attention="eager" if len(ids) < 2048 else "sdpa")


def write_sequences(weights, sequences):
    out = {}
    for task in [NONE] + TASKS:
        for name, ids in sequences.items():
            sequence_goldens(out, name, ids, task, model_for(weights, task, ids))
    save(out, "sequences")
    return out


def dequantised(weights):
    """The weights that a reader of gguf-q8_0 sees: base matrices dequantised, adapters exact."""
    reader = gguf.GGUFReader(CHECKPOINTS / "gguf-q8_0/model.gguf")
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    out = dict(weights)
    for name, t in weights.items():
        key = gguf_name(name.replace(ref.P + "original", ".weight"))
        if ".lora_" not in name and is_gguf_matrix(key, t) and "pooler" not in name:
            out[name] = torch.from_numpy(np.array(tensors[key], dtype=np.float32)).reshape(t.shape)
    return out


def write_gguf_q8_0(weights, sequences):
    weights, out = dequantised(weights), {}
    for task in [NONE] + TASKS:
        for name in ("len3", "len20", "len130"):
            sequence_goldens(out, name, sequences[name], task, model_for(weights, task, sequences[name]))
    save(out, "gguf_q8_0")


@torch.no_grad()
def write_custom_adapter(weights, sequences):
    """The adapter applied by PEFT itself, not merged."""
    model = ref.build_model(TINY, ref.merged(TINY, weights, NONE))
    model = peft.PeftModel.from_pretrained(model, CHECKPOINTS / "custom-adapter").eval()
    out = {}
    for name in ("len1", "len7", "len20", "len64", "len130"):
        sequence_goldens(out, name, sequences[name], "custom", model)
    save(out, "custom_adapter")


# --- late chunking ------------------------------------------------------------------------------------------------
def late_spans(lengths, instruction_tokens):
    """Spans of chunks of `lengths` tokens behind <s> and the instruction: (late-chunking repository's, text only)."""
    ends = np.cumsum(lengths) + 1 + instruction_tokens
    text_only = [[int(end - n), int(end)] for end, n in zip(ends, lengths)]
    repo = [list(span) for span in text_only]
    repo[0][0] = 0  # the first chunk takes <s> and the instruction
    repo[-1][1] += 1  # the last takes </s>
    return repo, text_only


def clip_spans(spans, max_tokens):
    """The rule of the repository for a text cut at `max_tokens`: no chunk reaches the last </s>."""
    return [[start, min(end, max_tokens - 1)] for start, end in spans if start < max_tokens - 1]


def windowed_hidden_states(model, ids, size, overlap):
    """Each window is a forward pass of its own; all but the first give up their first `overlap` rows."""
    if len(ids) <= size:
        return hidden_states(model, ids)
    parts = []
    for start in range(0, len(ids), size - overlap):
        hidden = hidden_states(model, ids[start : start + size])
        parts.append(hidden if start == 0 else hidden[overlap:])
    hidden = torch.cat(parts)
    assert len(hidden) == len(ids)
    return hidden


def pool_spans(hidden, spans):
    return torch.stack([hidden[start:end].sum(0) / (end - start) for start, end in spans])


def write_late(weights):
    generator = torch.Generator().manual_seed(SEED + 991)
    cases = {
        "three_chunks": dict(lengths=[11, 1, 23], instruction_tokens=5),
        "one_chunk": dict(lengths=[1], instruction_tokens=5),
        "no_instruction": dict(lengths=[4, 9], instruction_tokens=0),
        "clipped": dict(lengths=[20, 30, 25, 40], instruction_tokens=5, max_tokens=64),
        "clipped_at_a_border": dict(lengths=[20, 37, 10], instruction_tokens=5, max_tokens=64),
        "windows": dict(lengths=[17, 80, 3, 120, 60], instruction_tokens=5, window=128, overlap=32),
        "windows_ending_inside_the_overlap": dict(lengths=[40, 54], instruction_tokens=5, window=64, overlap=16),
    }
    out = {}
    models = {task: ref.build_model(TINY, ref.merged(TINY, weights, task)) for task in (NONE, "retrieval.passage")}
    for name, case in cases.items():
        n = case["instruction_tokens"] + sum(case["lengths"])
        ids = torch.cat([torch.tensor([0]), torch.randint(4, TINY.vocab - 1, (n,), generator=generator), torch.tensor([2])])
        repo, text_only = late_spans(case["lengths"], case["instruction_tokens"])
        if limit := case.get("max_tokens"):
            ids = torch.cat([ids[: limit - 1], torch.tensor([2])])
            repo, text_only = clip_spans(repo, limit), clip_spans(text_only, limit)
        case |= {"tokens": len(ids), "spans_repo": repo, "spans_text_only": text_only}
        key = f"late/{name}/"
        out[key + "input_ids"] = ids
        out[key + "spans_repo"], out[key + "spans_text_only"] = torch.tensor(repo), torch.tensor(text_only)
        for task, model in models.items():
            hidden = windowed_hidden_states(model, ids, case.get("window", MAX_TOKENS), case.get("overlap", 0))
            out[f"{key}{task}/repo_pooled"] = pool_spans(hidden, repo)
            out[f"{key}{task}/repo_normalized"] = l2(pool_spans(hidden, repo))
            out[f"{key}{task}/text_only_normalized"] = l2(pool_spans(hidden, text_only))
    save(out, "late")
    return cases


# --- texts --------------------------------------------------------------------------------------------------------
TEXTS = [
    "Jina Embeddings V3 is great for semantic search.", "Folge dem weißen Kaninchen.", "跟着白兔走。", "하얀 토끼를 따라가라.",
    "What is the weather like in Berlin today?", "  leading and   many    spaces  ", "ｆｕｌｌ－ｗｉｄｔｈ　ＡＢＣ１２３", "",
    " ", "a", "Hello, world!", "tabs\tand\nnew\r\nlines", "cafe\u0301 vs café vs ﬁne ﬀ ①②③ ½ ㎏ №",
    "👩‍👩‍👧‍👦 family 👍🏽 emoji ❤️", "zero\u200bwidth\u200djoin \u00ad soft \ufeff bom", "اتبع الأرنب الأبيض.",
    "mixed混合текстสวัสดี123", "<s> literal </s> <mask> <pad> <unk>", "before<mask>after  <mask> end",
    "control\x01\x02\x7f chars", "x" * 70, "▁already▁meta▁", "Ünïcödé ÀÉÎõü ǅ İstanbul ß", "next\u0085line\u2028sep\u200e end ",
    "\u1112\u1161\u11ab \u1112\u1161 か\u3099 ﾊﾟ", "....", "`` ``` ????", "ﬃ ﷺ \u0132 ｡", "trailing ", "a" + " b" * 90,
]
EMBEDDED_TEXTS = 8  # the first ones have vectors too


def write_texts(weights):
    """Token ids by the Python tokenizers library, instruction prepended; `resaved` is hf-resaved/tokenizer.json."""
    classic = tokenizers.Tokenizer.from_file(str(CHECKPOINTS / "original/tokenizer.json"))
    resaved = tokenizers.Tokenizer.from_file(str(CHECKPOINTS / "hf-resaved/tokenizer.json"))
    items, out = [], {}
    for text in TEXTS:
        ids = {task: classic.encode(INSTRUCTIONS.get(task, "") + text).ids for task in [NONE] + TASKS}
        items.append({"text": text, "ids": ids, "resaved": resaved.encode(text).ids})
    for i, item in enumerate(items[:EMBEDDED_TEXTS]):
        for task in [NONE] + TASKS:
            model = ref.build_model(TINY, ref.merged(TINY, weights, task))
            out[f"text/{i}/{task}/normalized"] = l2(hidden_states(model, item["ids"][task]).mean(0))
    save(out, "text")
    classic.enable_truncation(16)
    cut = [{"text": t, "task": task, "max_tokens": 16, "ids": classic.encode(INSTRUCTIONS.get(task, "") + t).ids}
           for t in (TEXTS[0], TEXTS[-1], "a", "") for task in (NONE, "retrieval.query")]
    lines = ",\n".join("  " + json.dumps(item, ensure_ascii=True) for item in items)
    cut_lines = ",\n".join("  " + json.dumps(item, ensure_ascii=True) for item in cut)
    (GOLDENS / "text.json").write_text(f'{{"items": [\n{lines}\n ],\n "truncated": [\n{cut_lines}\n ]}}\n')


# --- output types -------------------------------------------------------------------------------------------------
def output_types(v):
    """int8 is round half away of v * 127 (float32 product), clamped; binary is ubinary - 128; base64 is float32 LE."""
    product = (v * np.float32(127)).astype(np.float64)
    int8 = np.clip(np.trunc(product + np.copysign(0.5, product)), -127, 127).astype(int)
    ubinary = np.packbits(v > 0)
    return {
        "float": v.tolist(), "int8": int8.tolist(), "uint8": (int8 + 128).tolist(), "ubinary": ubinary.tolist(),
        "binary": (ubinary.astype(int) - 128).tolist(), "base64": base64.b64encode(v.astype("<f4").tobytes()).decode(),
    }


def write_output_types(sequences):
    vectors = {f"{name}_{task}_{d}": sequences[f"seq/{name}/{task}/truncated_{d}"].numpy()
               for name, task, d in (("len20", NONE, 128), ("len20", "retrieval.query", 32), ("len3", "separation", 50),
                                     ("len130", "text-matching", 16), ("len3", NONE, 1))}
    edges = [0.0, -0.0, 1.0, -1.0, 0.5 / 127, -0.5 / 127, 1.5 / 127, -1.5 / 127, 2.5 / 127, 1e-30, -1e-30, 1.1, -1.1,
             0.4999 / 127, 126.5 / 127, -126.5 / 127]
    vectors["edges"] = np.array(edges, dtype=np.float32)  # not unit length: the rule holds component by component
    vectors["halves"] = np.array([k / 254 for k in range(-7, 8)], dtype=np.float32)
    lines = ",\n".join(f'  "{n}": {json.dumps(output_types(v))}' for n, v in vectors.items())
    (GOLDENS / "output_types.json").write_text(f'{{"vectors": {{\n{lines}\n}}}}\n')


# --- agreement of the layouts -------------------------------------------------------------------------------------
def largest_difference(model, goldens, task):
    names = [f"len{n}" for n in LENGTHS if n <= FULL_HIDDEN]
    return max(float((hidden_states(model, goldens[f"seq/{n}/input_ids"]) - goldens[f"seq/{n}/{task}/last_hidden_state"])
                     .abs().max()) for n in names)


@torch.no_grad()
def check_transformers(layout, goldens):
    """transformers' own loader, and PEFT's adapters where the layout has them, against the merged goldens."""
    model, info = transformers.AutoModel.from_pretrained(
        CHECKPOINTS / layout, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    model.eval()
    worst = largest_difference(model, goldens, NONE)
    for task in TASKS:
        name = ADAPTER_FOLDER[task]
        if (CHECKPOINTS / layout / name).exists():
            model.load_adapter(str(CHECKPOINTS / layout), adapter_name=name, adapter_kwargs={"subfolder": name})
            model.set_adapter(name)
            worst = max(worst, largest_difference(model, goldens, task))
    return worst


def check_gguf(weights, folder):
    """Largest difference of a merged weight rebuilt from the GGUF files; every name is in gguf's own map."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.JINA_BERT_V3, TINY.layers)
    for name in ref.base_tensors(weights):
        if "pooler" not in name:
            assert names.get_name(name.removeprefix("roberta."), try_suffixes=(".weight", ".bias")) == gguf_name(name)

    def read(path):
        return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}

    base, worst = read(CHECKPOINTS / folder / "model.gguf"), 0.0
    for task in TASKS:
        lora, want = read(CHECKPOINTS / f"gguf/lora-{task}-model.gguf"), ref.merged(TINY, weights, task)
        for path, rows, columns, _ in ref.modules(TINY):
            if "pooler" in path:
                continue
            name = gguf_name(path) + ".weight"
            a, b = lora[name + ".lora_a"], lora[name + ".lora_b"]
            delta = a @ b.T if name == "token_embd.weight" else b @ a
            got = base[name].reshape(rows, columns) + delta * np.float32(TINY.alpha / TINY.rank)
            worst = max(worst, float(np.abs(got - want[path + ".weight"].numpy()).max()))
    return worst


def check(weights, goldens):
    """How far apart independent ways to the same numbers are; asserts that they agree."""
    found = {f"{layout}: transformers loader{peft_}, hidden states": check_transformers(layout, goldens)
             for layout, peft_ in (("hf", " + PEFT"), ("hf-resaved", " + PEFT"), ("hf-unfused", ""))}
    other = load_weights("original-f16")
    assert all(torch.equal(other[n], t) for n, t in weights.items())
    base = load_weights("base-only")
    assert all(torch.equal(base[n], t) for n, t in ref.base_tensors(weights).items())
    for folder in ("gguf", "gguf-f16"):
        found[f"{folder}: merged weights"] = check_gguf(weights, folder)
    for layout, worst in found.items():
        assert worst < HIDDEN_NOISE, (layout, worst)
    found["gguf-q8_0: merged weights (quantised)"] = check_gguf(weights, "gguf-q8_0")
    normalized = hidden = 0.0
    for task in [NONE] + TASKS:
        model = ref.build_model(TINY, ref.merged(TINY, weights, task, torch.float64), torch.float64)
        for name in (f"len{n}" for n in LENGTHS if n < 2048):
            exact = hidden_states(model, goldens[f"seq/{name}/input_ids"])
            normalized = max(normalized, float((l2(exact.mean(0)) - goldens[f"seq/{name}/{task}/normalized"]).abs().max()))
            if (state := goldens.get(f"seq/{name}/{task}/last_hidden_state")) is not None:
                hidden = max(hidden, float((exact - state).abs().max()))
    found["float64 run: normalized vectors"], found["float64 run: hidden states"] = normalized, hidden
    return found


def save(tensors, name):
    save_file({n: t.contiguous() for n, t in sorted(tensors.items())}, str(GOLDENS / f"{name}.safetensors"))
    (GOLDENS / f"{name}.safetensors").chmod(0o644)


def write_goldens():
    GOLDENS.mkdir(exist_ok=True)
    weights, sequences = load_weights("original"), make_sequences()
    tensors = write_sequences(weights, sequences)
    write_output_types(tensors)
    late = write_late(weights)
    write_texts(weights)
    write_gguf_q8_0(weights, sequences)
    write_custom_adapter(weights, sequences)
    write_json(GOLDENS / "goldens.json", {
        "seed": SEED, "tasks": [NONE] + TASKS, "sequences": {n: len(i) for n, i in sequences.items()},
        "truncated": {"sequences": TRUNCATED, "dimensions": DIMENSIONS}, "late": late,
        "agreement": {k: float(f"{v:.2g}") for k, v in check(weights, tensors).items()},
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, tokenizers)},
    }, indent=1)
