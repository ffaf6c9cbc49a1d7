//! Tensor names: which parts the model has, and what each layout calls them.

use crate::config::ModelConfig;

/// A file layout of the model, told apart by its tensor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `jinaai/jina-embeddings-v3`: torch parametrizations, LoRA stacked by task.
    Original,
    /// `jinaai/jina-embeddings-v3-hf` and what transformers saves again: fused names, plain weights.
    Fused,
    /// The names that transformers uses in memory: query, key and value apart.
    Unfused,
    /// llama.cpp's converter.
    Gguf,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Original => "original (stacked LoRA)",
            Self::Fused => "hf (fused names)",
            Self::Unfused => "unfused (transformers' in-memory names)",
            Self::Gguf => "GGUF",
        })
    }
}

/// A part of the model that owns tensors; the number is the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    WordEmbeddings,
    TokenTypeEmbeddings,
    EmbeddingNorm,
    Wqkv(usize),
    OutProj(usize),
    Norm1(usize),
    Fc1(usize),
    Fc2(usize),
    Norm2(usize),
    /// In the file, never used for embeddings.
    Pooler,
}

impl Part {
    /// Every part of a model with this configuration.
    pub(super) fn all(config: &ModelConfig) -> impl Iterator<Item = Self> {
        let layers = (0..config.num_hidden_layers).flat_map(|layer| {
            [
                Self::Wqkv(layer),
                Self::OutProj(layer),
                Self::Norm1(layer),
                Self::Fc1(layer),
                Self::Fc2(layer),
                Self::Norm2(layer),
            ]
        });
        [
            Self::WordEmbeddings,
            Self::TokenTypeEmbeddings,
            Self::EmbeddingNorm,
        ]
        .into_iter()
        .chain(layers)
        .chain([Self::Pooler])
    }

    /// The matrix at a place of the packed weights: Wqkv, out_proj, fc1, fc2 of each layer in turn.
    pub(super) fn of_matrix(index: usize) -> Self {
        let kinds = [Self::Wqkv, Self::OutProj, Self::Fc1, Self::Fc2];
        kinds[index % kinds.len()](index / kinds.len())
    }

    /// Name of the part in the layout that has the fewest tensors.
    pub(super) fn name(self) -> String {
        self.fused_stem()
    }

    /// Whether LoRA adapters can sit on this part (every Linear and Embedding, spec section 2).
    pub(super) fn takes_lora(self) -> bool {
        !self.is_norm()
    }

    pub(super) fn is_norm(self) -> bool {
        matches!(self, Self::EmbeddingNorm | Self::Norm1(_) | Self::Norm2(_))
    }

    pub(super) fn is_embedding(self) -> bool {
        matches!(self, Self::WordEmbeddings | Self::TokenTypeEmbeddings)
    }

    pub(super) fn has_bias(self) -> bool {
        !self.is_embedding()
    }

    /// Shape of the whole weight: `[out, in]`, `[rows, hidden]` for tables, `[hidden]` for norms.
    pub(super) fn weight_shape(self, config: &ModelConfig) -> Vec<usize> {
        let hidden = config.hidden_size;
        match self {
            Self::WordEmbeddings => vec![config.vocab_size, hidden],
            Self::TokenTypeEmbeddings => vec![1, hidden],
            Self::EmbeddingNorm | Self::Norm1(_) | Self::Norm2(_) => vec![hidden],
            Self::Wqkv(_) => vec![3 * hidden, hidden],
            Self::OutProj(_) | Self::Pooler => vec![hidden, hidden],
            Self::Fc1(_) => vec![config.intermediate_size, hidden],
            Self::Fc2(_) => vec![hidden, config.intermediate_size],
        }
    }

    /// Module paths of this part without prefix: three where query, key and value lie apart.
    pub(super) fn stems(self, layout: Layout) -> Vec<String> {
        match layout {
            Layout::Original | Layout::Fused => vec![self.fused_stem()],
            Layout::Unfused => self.unfused_stems(),
            Layout::Gguf => vec![self.gguf_stem()],
        }
    }

    fn fused_stem(self) -> String {
        let layer = |index: usize, name: &str| format!("encoder.layers.{index}.{name}");
        match self {
            Self::WordEmbeddings => "embeddings.word_embeddings".to_owned(),
            Self::TokenTypeEmbeddings => "embeddings.token_type_embeddings".to_owned(),
            Self::EmbeddingNorm => "emb_ln".to_owned(),
            Self::Wqkv(index) => layer(index, "mixer.Wqkv"),
            Self::OutProj(index) => layer(index, "mixer.out_proj"),
            Self::Norm1(index) => layer(index, "norm1"),
            Self::Fc1(index) => layer(index, "mlp.fc1"),
            Self::Fc2(index) => layer(index, "mlp.fc2"),
            Self::Norm2(index) => layer(index, "norm2"),
            Self::Pooler => "pooler.dense".to_owned(),
        }
    }

    fn unfused_stems(self) -> Vec<String> {
        let layer = |index: usize, name: &str| format!("layers.{index}.{name}");
        vec![match self {
            Self::EmbeddingNorm => "embeddings.LayerNorm".to_owned(),
            Self::Wqkv(index) => {
                return ["q_proj", "k_proj", "v_proj"]
                    .map(|name| layer(index, &format!("self_attn.{name}")))
                    .to_vec();
            }
            Self::OutProj(index) => layer(index, "self_attn.o_proj"),
            Self::Norm1(index) => layer(index, "post_attention_layernorm"),
            Self::Fc1(index) => layer(index, "mlp.fc1"),
            Self::Fc2(index) => layer(index, "mlp.fc2"),
            Self::Norm2(index) => layer(index, "post_mlp_layernorm"),
            Self::WordEmbeddings | Self::TokenTypeEmbeddings | Self::Pooler => self.fused_stem(),
        }]
    }

    fn gguf_stem(self) -> String {
        let block = |index: usize, name: &str| format!("blk.{index}.{name}");
        match self {
            Self::WordEmbeddings => "token_embd".to_owned(),
            Self::TokenTypeEmbeddings => "token_types".to_owned(),
            Self::EmbeddingNorm => "token_embd_norm".to_owned(),
            Self::Wqkv(index) => block(index, "attn_qkv"),
            Self::OutProj(index) => block(index, "attn_output"),
            Self::Norm1(index) => block(index, "attn_output_norm"),
            Self::Fc1(index) => block(index, "ffn_up"),
            Self::Fc2(index) => block(index, "ffn_down"),
            Self::Norm2(index) => block(index, "layer_output_norm"),
            // The converter drops the pooler.
            Self::Pooler => "pooler".to_owned(),
        }
    }

    /// Tail of the name of a weight in this layout, behind the stem.
    pub(super) fn weight_suffix(self, layout: Layout) -> &'static str {
        if layout == Layout::Original && self.takes_lora() {
            ".parametrizations.weight.original"
        } else {
            ".weight"
        }
    }
}

/// Buffers that some files carry and nothing needs.
pub(super) fn is_ignorable(name: &str) -> bool {
    [
        "position_ids",
        "token_type_ids",
        "inv_freq",
        "lora_dropout_mask",
        "rope_freqs.weight",
    ]
    .iter()
    .any(|suffix| name.ends_with(suffix))
}

/// An adapter tensor's place: the part, which third of Wqkv (or all of it), and A or B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LoraPlace {
    pub(super) part: Part,
    /// 0, 1, 2 for query, key, value; `None` for a whole module.
    pub(super) third: Option<usize>,
    pub(super) is_b: bool,
}

/// Reads a PEFT tensor name of any provenance: hub, re-saved, trained on either module tree.
pub(super) fn peft_place(name: &str) -> Option<LoraPlace> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let name = name.strip_prefix("roberta.").unwrap_or(name);
    let (stem, tail) = name.rsplit_once(".lora_")?;
    // PEFT inserts the adapter's name when a state dict is saved raw: `lora_A.default.weight`.
    let (letter, rest) = tail.split_once('.').unwrap_or((tail, ""));
    let is_b = match letter {
        "A" | "embedding_A" => false,
        "B" | "embedding_B" => true,
        _ => return None,
    };
    if !(rest.is_empty() || rest == "weight" || rest.ends_with(".weight") || !rest.contains('.')) {
        return None;
    }
    let whole = |part| {
        Some(LoraPlace {
            part,
            third: None,
            is_b,
        })
    };
    match stem {
        "embeddings.word_embeddings" => return whole(Part::WordEmbeddings),
        "embeddings.token_type_embeddings" => return whole(Part::TokenTypeEmbeddings),
        "pooler.dense" => return whole(Part::Pooler),
        _ => {}
    }
    let layered = stem
        .strip_prefix("encoder.")
        .unwrap_or(stem)
        .strip_prefix("layers.")?;
    let (index, module) = layered.split_once('.')?;
    let layer: usize = index.parse().ok()?;
    let third = |third| {
        Some(LoraPlace {
            part: Part::Wqkv(layer),
            third: Some(third),
            is_b,
        })
    };
    match module {
        "mixer.Wqkv" => whole(Part::Wqkv(layer)),
        "self_attn.q_proj" => third(0),
        "self_attn.k_proj" => third(1),
        "self_attn.v_proj" => third(2),
        "mixer.out_proj" | "self_attn.o_proj" => whole(Part::OutProj(layer)),
        "mlp.fc1" => whole(Part::Fc1(layer)),
        "mlp.fc2" => whole(Part::Fc2(layer)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peft_names_of_every_provenance_find_their_place() {
        let q = |is_b| {
            Some(LoraPlace {
                part: Part::Wqkv(7),
                third: Some(0),
                is_b,
            })
        };
        let out = |is_b| {
            Some(LoraPlace {
                part: Part::OutProj(7),
                third: None,
                is_b,
            })
        };
        let word = |is_b| {
            Some(LoraPlace {
                part: Part::WordEmbeddings,
                third: None,
                is_b,
            })
        };
        for (name, place) in [
            (
                "roberta.encoder.layers.7.self_attn.q_proj.lora_A.weight",
                q(false),
            ),
            (
                "base_model.model.layers.7.self_attn.q_proj.lora_B.weight",
                q(true),
            ),
            (
                "base_model.model.layers.7.self_attn.q_proj.lora_B.default.weight",
                q(true),
            ),
            (
                "roberta.encoder.layers.7.mixer.out_proj.lora_A.weight",
                out(false),
            ),
            (
                "base_model.model.layers.7.self_attn.o_proj.lora_B.weight",
                out(true),
            ),
            (
                "roberta.embeddings.word_embeddings.lora_embedding_A",
                word(false),
            ),
            (
                "base_model.model.embeddings.word_embeddings.lora_embedding_B",
                word(true),
            ),
            (
                "base_model.model.embeddings.word_embeddings.lora_embedding_B.default",
                word(true),
            ),
            ("layers.7.self_attn.q_proj.weight", None),
            ("layers.x.self_attn.q_proj.lora_A.weight", None),
            ("layers.7.self_attn.q_proj.lora_magnitude_vector", None),
            ("lm_head.lora_A.weight", None),
        ] {
            assert_eq!(peft_place(name), place, "{name}");
        }
    }
}
