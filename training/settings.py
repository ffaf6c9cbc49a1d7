"""Every number of the recipe in one place, and where files are read and written."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

#: Order of the adapters in the stacked tensors; it is `lora_adaptations` of config.json.
TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]

#: Text put before the input, part of the mean. Tasks that are not named have none.
INSTRUCTIONS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
    "separation": "",
    "classification": "",
    "text-matching": "",
}

#: Quintet's 30 languages: ISO 639-1, folder of SIB-200, name in Tatoeba.
LANGUAGES = {
    "ar": ("arb_Arab", "ara"), "bn": ("ben_Beng", "ben"), "da": ("dan_Latn", "dan"),
    "de": ("deu_Latn", "deu"), "el": ("ell_Grek", "ell"), "en": ("eng_Latn", None),
    "es": ("spa_Latn", "spa"), "fi": ("fin_Latn", "fin"), "fr": ("fra_Latn", "fra"),
    "hi": ("hin_Deva", "hin"), "id": ("ind_Latn", "ind"), "it": ("ita_Latn", "ita"),
    "ja": ("jpn_Jpan", "jpn"), "ka": ("kat_Geor", "kat"), "ko": ("kor_Hang", "kor"),
    "lv": ("lvs_Latn", "lvs"), "nl": ("nld_Latn", "nld"), "no": ("nob_Latn", "nob"),
    "pl": ("pol_Latn", "pol"), "pt": ("por_Latn", "por"), "ro": ("ron_Latn", "ron"),
    "ru": ("rus_Cyrl", "rus"), "sk": ("slk_Latn", "slk"), "sv": ("swe_Latn", "swe"),
    "th": ("tha_Thai", "tha"), "tr": ("tur_Latn", "tur"), "uk": ("ukr_Cyrl", "ukr"),
    "ur": ("urd_Arab", "urd"), "vi": ("vie_Latn", "vie"), "zh": ("zho_Hans", "cmn"),
}  # fmt: skip


@dataclass
class Shape:
    """Size of the model; the names are those of config.json."""

    vocab_size: int = 34_900
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    rotary_emb_base: float = 20_000.0
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 8194
    lora_rank: int = 4
    lora_alpha: int = 1
    matryoshka_dimensions: list = field(default_factory=lambda: [32, 64, 128, 256])


@dataclass
class Schedule:
    """Lengths are in steps (of the body in windows of `body.WINDOW` texts), so that a pause or a slower machine changes no result."""

    seed: int = 20_261_123
    teacher_sentences: int = 1_045_311
    basis_steps: int = 150
    basis_lr: float = 2e-3
    static_steps: int = 1_200
    static_batch: int = 2_048
    static_lr: float = 4e-3
    checkpoint_every: int = 250
    body_windows: int = 800
    body_tokens: int = 6_144
    body_lr: float = 4e-4
    checkpoint_windows: int = 50
    retrieval_steps: int = 400
    retrieval_batch: int = 96
    adapter_steps: int = 300
    adapter_batch: int = 64
    adapter_lr: float = 8e-3
    label_lr: float = 3e-2
    matching_steps: int = 150
    matching_lr: float = 2e-3
    adapter_noise_lr: float = 2e-3


@dataclass
class Paths:
    """`data` holds `train/` and `data/` (see their SOURCE.md files); `work` may be deleted."""

    data: Path = REPOSITORY / ".." / "shared"
    work: Path = Path(os.environ.get("QUINTET_MINI_WORK", REPOSITORY / "target" / "mini"))
    model: Path = REPOSITORY / "crates" / "mini" / "model"

    @property
    def train(self) -> Path:
        return self.data / "train"

    @property
    def evaluation(self) -> Path:
        return self.data / "data"


def describe(shape: Shape, schedule: Schedule) -> dict:
    """The settings as plain values, for the log and the checkpoints."""
    return {"shape": asdict(shape), "schedule": asdict(schedule)}
