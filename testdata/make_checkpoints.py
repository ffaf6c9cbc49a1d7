#!/usr/bin/env python3
"""Writes testdata/checkpoints (one set of random weights in every layout the engine reads) and testdata/goldens.

Seed 3. Made with Python 3.11, torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, tokenizers 0.23.3,
sentencepiece 0.2.3, gguf 0.19.0. testdata/README.md says what each folder is.

    python make_checkpoints.py              # checkpoints, then goldens
    python make_checkpoints.py --goldens    # goldens only, from the committed checkpoints
"""
import argparse
import base64
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers.utils import logging

import reference as ref
from reference import ADAPTER_FOLDER, INSTRUCTIONS, TASKS, TINY

SEED = 3
HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
PEFT_TARGETS = ["word_embeddings", "token_type_embeddings", "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "dense"]


def write_json(path, value, indent=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def write_tensors(path, tensors, dtype="bfloat16"):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.to(DTYPES[dtype]).clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    save_file(tensors, str(path), metadata={"format": "pt"})


# --- original and base-only ---------------------------------------------------------------------------------------
def write_original(folder, weights, dtype):
    """As on the hub: parametrization names, LoRA of five tasks stacked."""
    write_tensors(folder / "model.safetensors", weights, dtype)
    write_json(folder / "config.json", ref.original_config(TINY, dtype))


def write_sentence_transformers_files(folder):
    """The small files that the original repository has beside the weights."""
    write_json(folder / "1_Pooling/config.json", {
        "word_embedding_dimension": TINY.hidden, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False})
    write_json(folder / "config_sentence_transformers.json", {
        "__version__": {"sentence_transformers": "3.1.0", "transformers": "4.41.2", "pytorch": "2.3.1+cu121"},
        "prompts": INSTRUCTIONS, "default_prompt_name": None, "similarity_fn_name": "cosine"})
    write_json(folder / "modules.json", [
        {"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer", "kwargs": ["task"]},
        {"idx": 1, "name": "pooler", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "normalizer", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}])


def write_base_only(folder, weights):
    """A fine-tuned model that was merged and saved: plain names, no LoRA in file or config."""
    write_tensors(folder / "model.safetensors", ref.base_tensors(weights), "float32")
    config = {k: v for k, v in ref.original_config(TINY).items() if not k.startswith(("lora_", "load_trained", "task_"))}
    write_json(folder / "config.json", config)


# --- the layouts of transformers and PEFT -------------------------------------------------------------------------
def write_hf(folder, weights):
    """As in the `-hf` repository: fused names, one PEFT folder a task."""
    write_tensors(folder / "model.safetensors", ref.base_tensors(weights))
    write_json(folder / "config.json", ref.hf_config(TINY))
    for task in TASKS:
        adapter = folder / ADAPTER_FOLDER[task]
        write_tensors(adapter / "adapter_model.safetensors", ref.peft_tensors(TINY, weights, task))
        write_json(adapter / "adapter_config.json", {
            "peft_type": "LORA", "base_model_name_or_path": None, "r": TINY.rank, "lora_alpha": TINY.alpha,
            "lora_dropout": 0.0, "target_modules": PEFT_TARGETS}, indent=3)


def scrub(folder):
    """Removes model cards, and the path of this machine that PEFT and transformers write into their configs."""
    for path in folder.rglob("README.md"):
        path.unlink()
    for path in folder.rglob("*config.json"):
        config = json.loads(path.read_text())
        for key in ("_name_or_path", "base_model_name_or_path"):
            if config.get(key):
                config[key] = "random-reference"
        if isinstance(config.get("target_modules"), list):
            config["target_modules"].sort()  # PEFT writes a set in random order
        write_json(path, config)


def write_resaved(source, resaved, unfused):
    """What users have after loading `source` with transformers and saving it again."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source, dtype=torch.bfloat16)
    model.save_pretrained(resaved)
    model.save_pretrained(unfused, save_original_format=False)
    for task in TASKS:
        name = ADAPTER_FOLDER[task]
        model = AutoModel.from_pretrained(source, dtype=torch.bfloat16)
        model.load_adapter(str(source), adapter_name=name, adapter_kwargs={"subfolder": name})
        model.save_pretrained(resaved / name)
    scrub(resaved)
    scrub(unfused)


def write_custom_adapter(folder, weights):
    """A user's own PEFT adapter: rank 8, alpha 16, four kinds of module, q and v with an A of their own."""
    from peft import LoraConfig, get_peft_model

    model = ref.build_model(TINY, ref.merged(TINY, weights, ref.NONE))
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "fc1"]))
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if ".lora_" in name:
                std = 0.5 / parameter.shape[1] ** 0.5 if ".lora_A" in name else 0.1
                parameter.copy_(ref.round_weight(torch.empty(parameter.shape).normal_(0.0, std, generator=generator)))
    model.save_pretrained(folder)
    scrub(folder)


# --- GGUF, as llama.cpp's converter lays this model out -----------------------------------------------------------
GGUF_NAMES = (("roberta.embeddings.word_embeddings", "token_embd"), ("roberta.embeddings.token_type_embeddings", "token_types"),
              ("roberta.emb_ln", "token_embd_norm"), ("roberta.encoder.layers.", "blk."), ("mixer.Wqkv", "attn_qkv"),
              ("mixer.out_proj", "attn_output"), ("norm1", "attn_output_norm"), ("mlp.fc1", "ffn_up"),
              ("mlp.fc2", "ffn_down"), ("norm2", "layer_output_norm"))


def gguf_name(name):
    for old, new in GGUF_NAMES:
        name = name.replace(old, new)
    return name


def gguf_base_tensors(weights):
    """The pooler and its LoRA are dropped by the converter."""
    return {gguf_name(n): t.numpy() for n, t in ref.base_tensors(weights).items() if "pooler" not in n}


def is_gguf_matrix(name, array):
    return array.ndim == 2 and name != "token_types.weight"


def finish_gguf(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf_base(path, weights, kind, tokenizer=None):
    """`kind` is the type of the matrices; vectors and token types stay F32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "jina-bert-v3")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("random-reference")
    writer.add_block_count(TINY.layers)
    writer.add_context_length(TINY.max_positions - 2)
    writer.add_embedding_length(TINY.hidden)
    writer.add_feed_forward_length(TINY.ffn)
    writer.add_head_count(TINY.heads)
    writer.add_layer_norm_eps(TINY.eps)
    writer.add_rope_freq_base(TINY.theta)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    if tokenizer:
        add_gguf_tokenizer(writer, tokenizer)
    for name, array in gguf_base_tensors(weights).items():
        if kind != "F32" and is_gguf_matrix(name, array):
            raw = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quants.quantize(array, raw), raw_dtype=raw)
        else:
            writer.add_tensor(name, array)
    finish_gguf(writer)


def add_gguf_tokenizer(writer, tokenizer):
    vocab = tokenizer["model"]["vocab"]
    control = {0, 1, 2, TINY.vocab - 1}
    kinds = gguf.TokenType
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.encode() for piece, _ in vocab])
    writer.add_token_scores([float(score) for _, score in vocab])
    writer.add_token_types([kinds.UNKNOWN if i == 3 else kinds.CONTROL if i in control else kinds.NORMAL
                            for i in range(len(vocab))])
    writer.add_add_space_prefix(True)
    writer.add_token_type_count(1)
    writer.add_remove_extra_whitespaces(True)
    writer.add_precompiled_charsmap(base64.b64decode(tokenizer["normalizer"]["precompiled_charsmap"]))
    for token, i in (("bos", 0), ("eos", 2), ("unk", 3), ("sep", 2), ("pad", 1), ("mask", TINY.vocab - 1)):
        getattr(writer, f"add_{token}_token_id")(i)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def write_gguf_adapters(folder, weights):
    for i, task in enumerate(TASKS):
        writer = gguf.GGUFWriter(folder / f"lora-{task}-model.gguf", "jina-bert-v3")
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(TINY.alpha))
        writer.add_string("adapter.lora.task_name", task)
        writer.add_string("adapter.lora.prompt_prefix", INSTRUCTIONS[task])
        for path, _, _, _ in ref.modules(TINY):
            if "pooler" in path:
                continue
            name = gguf_name(path) + ".weight"
            a, b = (weights[path + ref.P + f"0.lora_{x}"][i].numpy() for x in "AB")
            if name == "token_embd.weight":  # a [V, r] as stored, b transposed to [H, r]
                b = np.ascontiguousarray(b.T)
            elif name == "token_types.weight":  # the letters swap: a [r, H], b [1, r]
                a, b = b, a
            for suffix, array in ((".lora_a", a), (".lora_b", b)):
                writer.add_tensor(name + suffix, array, raw_dtype=gguf.GGMLQuantizationType.F32)
        finish_gguf(writer)


# --- toy tokenizer ------------------------------------------------------------------------------------------------
CORPUS = [
    "Jina Embeddings V3 is great for semantic search.", "Follow the white rabbit.", "Sigue al conejo blanco.",
    "Suis le lapin blanc.", "跟着白兔走。", "اتبع الأرنب الأبيض.", "Folge dem weißen Kaninchen.", "白うさぎについて行け。",
    "Следуй за белым кроликом.", "하얀 토끼를 따라가라.", "Ακολούθησε το άσπρο κουνέλι.",
    "What is the weather like in Berlin today?", "Berlin is the capital and largest city of Germany.",
    "Organic skincare for sensitive skin with aloe vera and chamomile.", "The quick brown fox jumps over the lazy dog.",
    "Represent the query for retrieving evidence documents: ", "Represent the document for retrieval: ",
    "An embedding is a vector of numbers; near vectors mean near texts.", "How do I cancel my card? (It was lost.)",
    "Tokens: 0 1 2 3 4 5 6 7 8 9 - + * / = < > [ ] { } \" ' ! ? , . : ; & % $ # @ _ | ~ ^ ` \\",
    "Queries, documents, classes and pairs each have an adapter of their own.", "Zürich, Genève, Köln, Kraków, Málaga",
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and "
    "should act towards one another in a spirit of brotherhood.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und "
    "sollen einander im Geist der Brüderlichkeit begegnen.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
]  # the longer ones: Article 1 of the Universal Declaration of Human Rights
RULE_RANGES = [
    (0x00, 0x24F), (0x2000, 0x206F), (0x2100, 0x218F), (0x2460, 0x24FF), (0x3000, 0x3000), (0x3300, 0x33FF),
    (0xFB00, 0xFB06), (0xFE30, 0xFE6F), (0xFEFF, 0xFEFF), (0xFF01, 0xFFEE),
]  # ranges that the toy charsmap covers


def normalization_rules():
    """The rules of nmt_nfkc for some ranges, as sentencepiece's TSV: the full map would be 300 KB of base64."""
    normalizer = sentencepiece.SentencePieceNormalizer(
        rule_name="nmt_nfkc", add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False)
    sources = [chr(c) for first, last in RULE_RANGES for c in range(first, last + 1)]
    letters = [chr(c) for c in range(0x41, 0x7B) if chr(c).isalpha()]
    sources += [letter + chr(mark) for letter in letters for mark in (0x300, 0x301, 0x302, 0x303, 0x308, 0x327, 0x30A)]
    sources += [chr(0x1112) + chr(0x1161), chr(0x1112) + chr(0x1161) + chr(0x11AB), "か\u3099", "カ\u3099", "ハ\u309a"]
    rules = []
    for source in sources:
        if source == "\0":
            continue
        target = normalizer.normalize(source)
        if target != source:
            rules.append(" ".join(f"{ord(c):04X}" for c in source) + "\t" + " ".join(f"{ord(c):04X}" for c in target))
    return "\n".join(rules) + "\n"


def write_tokenizer(folder):
    """A unigram model with the pipeline of XLM-R as transformers serialises it."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken
    from transformers import XLMRobertaTokenizer

    buffer = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write(normalization_rules())
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS * 20), model_writer=buffer, vocab_size=TINY.vocab - 2, model_type="unigram",
            unk_id=0, bos_id=1, eos_id=2, pad_id=-1, normalization_rule_tsv=rules.name, character_coverage=0.998,
            num_threads=1, minloglevel=2, shuffle_input_sentence=False)
    model = sentencepiece_model_pb2.ModelProto.FromString(buffer.getvalue())
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece.piece, piece.score) for piece in model.pieces[3:]] + [("<mask>", 0.0)]
    assert len(vocab) == TINY.vocab, len(vocab)
    tokenizer = XLMRobertaTokenizer(
        vocab=vocab, _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap, model_max_length=8194,
        mask_token=AddedToken("<mask>", lstrip=True, normalized=False, special=True))
    tokenizer.save_pretrained(folder)
    return json.loads((folder / "tokenizer.json").read_text())


def resaved_tokenizer(tokenizer):
    """The other head in the wild: blanks are squeezed by a Replace, and Metaspace alone splits."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return tokenizer | {
        "normalizer": {"type": "Sequence", "normalizers": [
            tokenizer["normalizer"], {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": metaspace, "decoder": metaspace}


def write_checkpoints():
    os.umask(0o022)
    if CHECKPOINTS.exists():
        shutil.rmtree(CHECKPOINTS)
    weights = ref.random_weights(TINY, SEED)
    for folder, dtype in (("original", "bfloat16"), ("original-f16", "float16")):
        write_original(CHECKPOINTS / folder, weights, dtype)
    write_sentence_transformers_files(CHECKPOINTS / "original")
    write_base_only(CHECKPOINTS / "base-only", weights)
    write_hf(CHECKPOINTS / "hf", weights)
    write_resaved(CHECKPOINTS / "hf", CHECKPOINTS / "hf-resaved", CHECKPOINTS / "hf-unfused")
    write_custom_adapter(CHECKPOINTS / "custom-adapter", weights)
    tokenizer = write_tokenizer(CHECKPOINTS / "original")
    assert tokenizer["normalizer"]["type"] == "Precompiled", tokenizer["normalizer"]["type"]
    write_json(CHECKPOINTS / "hf-resaved/tokenizer.json", resaved_tokenizer(tokenizer), indent=None)
    write_gguf_base(CHECKPOINTS / "gguf/model.gguf", weights, "BF16", tokenizer)
    write_gguf_adapters(CHECKPOINTS / "gguf", weights)
    for kind in ("F16", "Q8_0"):
        write_gguf_base(CHECKPOINTS / f"gguf-{kind.lower()}/model.gguf", weights, kind)
    for path in CHECKPOINTS.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goldens", action="store_true", help="leave the checkpoints, write the goldens again")
    parser.add_argument("--checkpoints", action="store_true", help="write the checkpoints only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not args.goldens:
        write_checkpoints()
    if not args.checkpoints:
        from make_goldens import write_goldens

        write_goldens()


if __name__ == "__main__":
    main()
