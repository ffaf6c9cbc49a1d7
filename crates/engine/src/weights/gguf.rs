//! GGUF, llama.cpp's container: header, metadata, tensor index, data (version 2 and 3 of ggml's
//! `docs/gguf.md`). The model's keys and tensors are those of llama.cpp's `conversion/bert.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::CheckpointError;
use super::tensors::{Dtype, TensorFile, TensorInfo};
use crate::config::{CONTEXT_TOKENS, ModelConfig, TASK_NAMES, default_task_instructions};

/// The architecture name that llama.cpp gives this model.
const ARCHITECTURE: &str = "jina-bert-v3";

/// A metadata value. Arrays keep what this model's files hold: strings, floats, bytes and integers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f64>),
    Bytes(Vec<u8>),
    Integers(Vec<i64>),
}

/// An opened GGUF file: its tensors and its metadata.
#[derive(Debug)]
pub(super) struct GgufFile {
    pub(super) file: TensorFile,
    metadata: BTreeMap<String, Value>,
}

/// The tokenizer that a GGUF file carries in its metadata: XLM-R's unigram vocabulary.
#[derive(Debug, Clone)]
pub struct GgufTokenizer {
    /// The file.
    pub path: PathBuf,
    /// Pieces with their log probabilities, by id.
    pub pieces: Vec<(String, f64)>,
    /// Ids of control pieces (`<s>`, `<pad>`, `</s>`, `<mask>`).
    pub control_ids: Vec<usize>,
    /// Id of the unknown piece.
    pub unknown_id: usize,
    /// SentencePiece's compiled normalisation rules.
    pub precompiled_charsmap: Vec<u8>,
}

impl GgufFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let map = TensorFile::map(path)?;
        let mut reader = Reader {
            path,
            bytes: map.bytes(),
            position: 0,
        };
        if reader.take(4)? != b"GGUF" {
            return Err(CheckpointError::NotWeights {
                path: path.to_owned(),
                found: "a file without the GGUF magic",
            });
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(reader.broken(format!("version {version}, expected 2 or 3")));
        }
        let tensor_count = reader.u64()?;
        let metadata_count = reader.u64()?;
        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind)?;
            metadata.insert(key, value);
        }
        let mut index = Vec::new();
        for _ in 0..tensor_count {
            index.push(reader.tensor()?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n as usize,
            Some(other) => {
                return Err(reader.broken(format!("alignment {other:?}, expected a power of two")));
            }
        };
        let data_start = reader.position.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for (name, dtype, shape, offset) in index {
            let values = shape
                .iter()
                .try_fold(1usize, |product, &size| product.checked_mul(size));
            let len = match &dtype {
                Ok(dtype) => values.and_then(|values| dtype.byte_len(values)),
                Err(_) => Some(0),
            };
            let range = len.and_then(|len| {
                let start = data_start.checked_add(offset)?;
                Some(start..start.checked_add(len)?)
            });
            let Some(range) = range else {
                return Err(reader.broken(format!(
                    "tensor `{name}` has the impossible shape {shape:?}"
                )));
            };
            if range.end > reader.bytes.len() {
                return Err(CheckpointError::Truncated {
                    path: path.to_owned(),
                    tensor: Some(name),
                    expected_bytes: range.end,
                    found_bytes: reader.bytes.len(),
                });
            }
            if tensors
                .insert(
                    name.clone(),
                    TensorInfo {
                        dtype,
                        shape,
                        range,
                    },
                )
                .is_some()
            {
                return Err(reader.broken(format!("tensor `{name}` is listed twice")));
            }
        }
        let file = TensorFile {
            path: path.to_owned(),
            map: std::sync::Arc::clone(&map),
            tensors,
        };
        Ok(Self { file, metadata })
    }

    fn broken(&self, rule: String) -> CheckpointError {
        CheckpointError::Gguf {
            path: self.file.path.clone(),
            rule,
        }
    }

    fn required(&self, key: &str) -> Result<&Value, CheckpointError> {
        self.metadata
            .get(key)
            .ok_or_else(|| self.broken(format!("metadata key `{key}` is missing")))
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "any other type is the same mistake"
    )]
    fn number(&self, key: &str) -> Result<f64, CheckpointError> {
        match self.required(key)? {
            Value::Unsigned(n) => Ok(*n as f64),
            Value::Signed(n) => Ok(*n as f64),
            Value::Float(n) => Ok(*n),
            other => Err(self.broken(format!(
                "metadata key `{key}` is {other:?}, expected a number"
            ))),
        }
    }

    fn size(&self, key: &str) -> Result<usize, CheckpointError> {
        let key = format!("{ARCHITECTURE}.{key}");
        let number = self.number(&key)?;
        if number.fract() == 0.0 && (0.0..=1e9).contains(&number) {
            Ok(number as usize)
        } else {
            Err(self.broken(format!(
                "metadata key `{key}` is {number}, expected a count"
            )))
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "any other type is no text")]
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this is a LoRA file rather than a base model.
    pub(super) fn is_adapter(&self) -> bool {
        self.text("general.type") == Some("adapter")
    }

    /// `adapter.lora.alpha`, refused when it is missing or not finite.
    pub(super) fn lora_alpha(&self) -> Result<f32, CheckpointError> {
        let alpha = self.number("adapter.lora.alpha")? as f32;
        if alpha.is_finite() {
            Ok(alpha)
        } else {
            Err(self.broken(format!(
                "adapter.lora.alpha is {alpha}, expected a finite number"
            )))
        }
    }

    /// The model's shape; `vocab_size` comes from the token list or the embedding table.
    pub(super) fn config(&self) -> Result<ModelConfig, CheckpointError> {
        match self.text("general.architecture") {
            Some(ARCHITECTURE) => {}
            found => {
                let found = found.unwrap_or("nothing");
                return Err(self.broken(format!(
                    "general.architecture is `{found}`, expected `{ARCHITECTURE}`"
                )));
            }
        }
        if let Some(Value::Bool(true)) = self
            .metadata
            .get(&format!("{ARCHITECTURE}.attention.causal"))
        {
            return Err(self.broken("attention.causal is true, expected false".to_owned()));
        }
        // 0 none, 1 mean, 2 first token, 3 last token (llama.cpp's `llama_pooling_type`).
        match self.size("pooling_type") {
            Ok(1) => {}
            Ok(other) => {
                return Err(self.broken(format!("pooling_type is {other}, expected 1 (mean)")));
            }
            Err(_)
                if !self
                    .metadata
                    .contains_key(&format!("{ARCHITECTURE}.pooling_type")) => {}
            Err(error) => return Err(error),
        }
        let table = self.file.tensors.get("token_embd.weight");
        let vocab_size = match self.metadata.get("tokenizer.ggml.tokens") {
            Some(Value::Texts(tokens)) => tokens.len(),
            _ => table
                .and_then(|table| table.shape.first().copied())
                .unwrap_or(0),
        };
        let rope_theta = match self
            .metadata
            .contains_key(&format!("{ARCHITECTURE}.rope.freq_base"))
        {
            true => self.number(&format!("{ARCHITECTURE}.rope.freq_base"))?,
            false => 20000.0,
        };
        let config = ModelConfig {
            vocab_size,
            hidden_size: self.size("embedding_length")?,
            num_hidden_layers: self.size("block_count")?,
            num_attention_heads: self.size("attention.head_count")?,
            intermediate_size: self.size("feed_forward_length")?,
            layer_norm_eps: self.number(&format!("{ARCHITECTURE}.attention.layer_norm_epsilon"))?
                as f32,
            rope_theta,
            max_tokens: self.size("context_length")?.min(CONTEXT_TOKENS),
            matryoshka_dimensions: Vec::new(),
            lora_adaptations: TASK_NAMES.map(str::to_owned).to_vec(),
            lora_alpha: 1.0,
            task_instructions: default_task_instructions(),
        };
        Ok(config.checked(&self.file.path)?)
    }

    /// The tokenizer, where the file has one.
    pub(super) fn tokenizer(&self) -> Result<Option<GgufTokenizer>, CheckpointError> {
        let Some(tokens) = self.metadata.get("tokenizer.ggml.tokens") else {
            return Ok(None);
        };
        let model = self.text("tokenizer.ggml.model").unwrap_or("nothing");
        if model != "t5" {
            return Err(self.broken(format!(
                "tokenizer.ggml.model is `{model}`, expected `t5` (unigram)"
            )));
        }
        let (
            Value::Texts(tokens),
            Value::Floats(scores),
            Value::Integers(types),
            Value::Bytes(charsmap),
        ) = (
            tokens,
            self.required("tokenizer.ggml.scores")?,
            self.required("tokenizer.ggml.token_type")?,
            self.required("tokenizer.ggml.precompiled_charsmap")?,
        )
        else {
            return Err(self.broken("the tokenizer's arrays have unexpected types".to_owned()));
        };
        if tokens.len() != scores.len() || tokens.len() != types.len() {
            return Err(self.broken(format!(
                "the tokenizer has {} tokens, {} scores and {} types",
                tokens.len(),
                scores.len(),
                types.len()
            )));
        }
        // llama.cpp's `llama_token_type`: 2 unknown, 3 control.
        let of_type = |kind: i64| (0..types.len()).filter(move |&id| types[id] == kind);
        Ok(Some(GgufTokenizer {
            path: self.file.path.clone(),
            pieces: tokens.iter().cloned().zip(scores.iter().copied()).collect(),
            control_ids: of_type(3).collect(),
            unknown_id: of_type(2).next().unwrap_or(3),
            precompiled_charsmap: charsmap.clone(),
        }))
    }
}

/// Reads little-endian fields one after the other and never beyond the end.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

/// Name, dtype, shape (outermost first) and offset of a tensor.
type IndexEntry = (String, Result<Dtype, String>, Vec<usize>, usize);

impl<'a> Reader<'a> {
    fn broken(&self, rule: String) -> CheckpointError {
        CheckpointError::Gguf {
            path: self.path.to_owned(),
            rule,
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], CheckpointError> {
        let end = self
            .position
            .checked_add(len)
            .filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(CheckpointError::Truncated {
                path: self.path.to_owned(),
                tensor: None,
                expected_bytes: self.position.saturating_add(len),
                found_bytes: self.bytes.len(),
            });
        };
        let taken = &self.bytes[self.position..end];
        self.position = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn len(&mut self) -> Result<usize, CheckpointError> {
        usize::try_from(self.u64()?).map_err(|_| self.broken("a length beyond memory".to_owned()))
    }

    fn text(&mut self) -> Result<String, CheckpointError> {
        let len = self.len()?;
        // Lossy, because a damaged piece of the vocabulary must not hide the rest of the file.
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    /// One value of metadata type `kind` (`gguf_metadata_value_type`).
    fn value(&mut self, kind: u32) -> Result<Value, CheckpointError> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>()?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => {
                let element = self.u32()?;
                let len = self.len()?;
                self.values(element, len)?
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(self.broken(format!("metadata type {other}, expected 0..=12"))),
        })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "any other type breaks the array"
    )]
    fn values(&mut self, element: u32, len: usize) -> Result<Value, CheckpointError> {
        // Collected one by one without reserving `len`, so that a damaged length ends at the file's
        // end and not in an allocation.
        match element {
            0 | 1 => Ok(Value::Bytes(self.take(len)?.to_vec())),
            8 => (0..len)
                .map(|_| self.text())
                .collect::<Result<_, _>>()
                .map(Value::Texts),
            6 | 12 => (0..len)
                .map(|_| match self.value(element)? {
                    Value::Float(number) => Ok(number),
                    other => Err(self.broken(format!("{other:?} in an array of floats"))),
                })
                .collect::<Result<_, _>>()
                .map(Value::Floats),
            2..=5 | 7 | 10 | 11 => (0..len)
                .map(|_| match self.value(element)? {
                    Value::Unsigned(number) => Ok(number.cast_signed()),
                    Value::Signed(number) => Ok(number),
                    Value::Bool(truth) => Ok(i64::from(truth)),
                    other => Err(self.broken(format!("{other:?} in an array of integers"))),
                })
                .collect::<Result<_, _>>()
                .map(Value::Integers),
            other => Err(self.broken(format!("an array of metadata type {other}"))),
        }
    }

    fn tensor(&mut self) -> Result<IndexEntry, CheckpointError> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(self.broken(format!("tensor `{name}` has {dimensions} dimensions")));
        }
        let mut shape = (0..dimensions)
            .map(|_| self.len())
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        // ggml's `ggml_type`.
        let dtype = match self.u32()? {
            0 => Ok(Dtype::F32),
            1 => Ok(Dtype::F16),
            8 => Ok(Dtype::Q8_0),
            30 => Ok(Dtype::Bf16),
            other => Err(format!("ggml type {other}")),
        };
        let offset = self.len()?;
        Ok((name, dtype, shape, offset))
    }
}
