"""transformers' own JinaEmbeddingsV3Model on PyTorch, scaled-dot-product attention."""
import json

import protocol
from protocol import MERGED_TASK

SETTINGS = {
    "transformers": f"SDPA, f32, `{MERGED_TASK}` merged into the weights",
    "transformers-adapters": "SDPA, f32, five PEFT adapters loaded, switched by `set_adapter` for each task",
    "transformers-bf16": f"SDPA, bf16 as the original repository loads by default, `{MERGED_TASK}` merged in f32",
}
PEFT_TARGETS = ["word_embeddings", "token_type_embeddings", "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "dense"]


def save(path, tensors, dtype):
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.to(dtype).contiguous().clone() for n, t in tensors.items()}, str(path), metadata={"format": "pt"})


def merged_folder(folders):
    """An f32 checkpoint in the layout of the `-hf` repository, one task merged; other peers start from it, too."""
    def make(folder):
        import torch
        from reference import FULL, hf_config, merged
        from safetensors.torch import load_file

        weights = load_file(folders.checkpoint / "model.safetensors")
        save(folder / "model.safetensors", merged(FULL, weights, MERGED_TASK), torch.float32)
        (folder / "config.json").write_text(json.dumps(hf_config(FULL)))

    return folders.made("merged", make)


def adapters_folder(folders):
    """The layout of the `-hf` repository: bf16 base and a folder for each adapter."""
    def make(folder):
        import torch
        from reference import ADAPTER_FOLDER, FULL, TASKS, base_tensors, hf_config, peft_tensors
        from safetensors.torch import load_file

        weights = load_file(folders.checkpoint / "model.safetensors")
        save(folder / "model.safetensors", base_tensors(weights), torch.bfloat16)
        (folder / "config.json").write_text(json.dumps(hf_config(FULL)))
        for task in TASKS:
            adapter = folder / ADAPTER_FOLDER[task]
            save(adapter / "adapter_model.safetensors", peft_tensors(FULL, weights, task), torch.bfloat16)
            (adapter / "adapter_config.json").write_text(json.dumps({
                "peft_type": "LORA", "base_model_name_or_path": None, "r": FULL.rank, "lora_alpha": FULL.alpha,
                "lora_dropout": 0.0, "target_modules": PEFT_TARGETS}))

    return folders.made("adapters", make)


def prepare(setting, folders):
    (adapters_folder if setting == "transformers-adapters" else merged_folder)(folders)


def merged_model(folders, dtype=None):
    import torch
    from transformers import JinaEmbeddingsV3Model

    return JinaEmbeddingsV3Model.from_pretrained(folders.peers / "merged", dtype=dtype or torch.float32,
                                                 attn_implementation="sdpa").eval()


class Transformers(protocol.Peer):
    def __init__(self, setting, folders, threads):
        import torch
        import transformers
        from transformers import JinaEmbeddingsV3Model

        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.torch, self.adapters = torch, setting == "transformers-adapters"
        self.versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
        if not self.adapters:
            self.model = merged_model(folders, torch.bfloat16 if setting == "transformers-bf16" else torch.float32)
            return
        import peft
        from reference import ADAPTER_FOLDER

        self.versions += f", peft {peft.__version__}"
        folder = folders.peers / "adapters"
        self.names, self.current = ADAPTER_FOLDER, None
        self.model = JinaEmbeddingsV3Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        for name in ADAPTER_FOLDER.values():
            self.model.load_adapter(str(folder), adapter_name=name, adapter_kwargs={"subfolder": name})

    def select(self, task):
        if self.adapters and task != self.current:
            self.model.set_adapter(self.names[task])
            self.current = task

    def hidden(self, ids, mask):
        torch = self.torch
        with torch.inference_mode():
            mask = torch.from_numpy(mask) if mask is not None else None
            return self.model(input_ids=torch.from_numpy(ids), attention_mask=mask).last_hidden_state.float().numpy()


if __name__ == "__main__":
    protocol.main(SETTINGS, prepare, Transformers)
