"""llama.cpp: writes the GGUF files; the process that is timed is llama_driver/driver.cpp."""
import argparse
import os
from pathlib import Path

from protocol import MERGED_TASK, Folders

_TEXT = ("%s weights, the five LoRA files loaded and on, switched for each task; built with CMake for this CPU. llama.cpp never "
         f"applies the token-type LoRA, so the base file has `{MERGED_TASK}`'s merged into that row")
SETTINGS = {"llama.cpp": _TEXT % "f32", "llama.cpp-q8_0": _TEXT % "q8_0"}
VERSION = "llama.cpp of llama-cpp-sys-2 0.1.161 (ggml 0.26.0)"
NAMES = (("roberta.embeddings.word_embeddings", "token_embd"), ("roberta.embeddings.token_type_embeddings", "token_types"),
         ("roberta.emb_ln", "token_embd_norm"), ("roberta.encoder.layers.", "blk."), ("mixer.Wqkv", "attn_qkv"),
         ("mixer.out_proj", "attn_output"), ("norm1", "attn_output_norm"), ("mlp.fc1", "ffn_up"), ("mlp.fc2", "ffn_down"),
         ("norm2", "layer_output_norm"))


def gguf_name(name):
    for old, new in NAMES:
        name = name.replace(old, new)
    return name


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_base(path, shape, weights):
    """As llama.cpp's converter does; without a tokenizer: every peer is given token ids."""
    import gguf
    from reference import TASKS, P, base_tensors

    writer = gguf.GGUFWriter(path, "jina-bert-v3")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("random-full-shape")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.max_positions - 2)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(shape.eps)
    writer.add_rope_freq_base(shape.theta)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(shape.vocab)
    writer.add_token_type_count(1)
    token_type = "roberta.embeddings.token_type_embeddings"
    for name, tensor in base_tensors(weights).items():
        if name == token_type + ".weight":
            a, b = (weights[f"{token_type}{P}0.lora_{letter}"][TASKS.index(MERGED_TASK)].float() for letter in "AB")
            tensor = tensor.float() + (a @ b) * (shape.alpha / shape.rank)
        if "pooler" not in name:
            writer.add_tensor(gguf_name(name), tensor.float().numpy())
    finish(writer)


def write_adapters(folder, shape, weights):
    import gguf
    from reference import INSTRUCTIONS, TASKS, P, modules

    for i, task in enumerate(TASKS):
        writer = gguf.GGUFWriter(folder / f"lora-{task}.gguf", "jina-bert-v3")
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(shape.alpha))
        writer.add_string("adapter.lora.task_name", task)
        writer.add_string("adapter.lora.prompt_prefix", INSTRUCTIONS[task])
        for path, *_ in modules(shape):
            if "pooler" in path:
                continue
            a, b = (weights[path + P + f"0.lora_{letter}"][i].float() for letter in "AB")
            name = gguf_name(path) + ".weight"
            if name == "token_embd.weight":
                b = b.T.contiguous()
            elif name == "token_types.weight":
                a, b = b, a
            writer.add_tensor(name + ".lora_a", a.numpy())
            writer.add_tensor(name + ".lora_b", b.numpy())
        finish(writer)


def prepare(setting, folders, driver):
    def make(folder):
        from reference import FULL
        from safetensors.torch import load_file

        weights = load_file(folders.checkpoint / "model.safetensors")
        write_base(folder / "f32.gguf", FULL, weights)
        write_adapters(folder, FULL, weights)

    plain = folders.made("gguf", make)

    def quantize(folder):
        import subprocess

        subprocess.run([driver, "--quantize", plain / "f32.gguf", folder / "q8_0.gguf"], check=True)

    if setting == "llama.cpp-q8_0":
        folders.made("gguf-q8_0", quantize)


def command(setting, folders, driver, threads):
    """The timed process."""
    from reference import TASKS

    base = folders.peers / ("gguf-q8_0/q8_0.gguf" if setting == "llama.cpp-q8_0" else "gguf/f32.gguf")
    loras = [f"--lora={task}={folders.peers}/gguf/lora-{task}.gguf" for task in TASKS]
    # This version's AMX products of q8_0 end with an illegal instruction; without its repacked weights it takes AVX-512.
    repacked = "off" if setting == "llama.cpp-q8_0" and "amx_int8" in Path("/proc/cpuinfo").read_text() else "on"
    return [driver, "--model", base, "--threads", threads, "--repacked", repacked, *(part for lora in loras for part in lora.split("=", 1))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--setting", choices=SETTINGS, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--peers-dir", type=Path, required=True)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--driver", default=os.environ.get("QUINTET_LLAMA_DRIVER"), required=False)
    args = parser.parse_args()
    prepare(args.setting, Folders(args.checkpoint, args.peers_dir), args.driver)
