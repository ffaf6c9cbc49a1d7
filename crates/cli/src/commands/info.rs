//! `quintet info`: what a model is, without loading its weights.

use std::io::Write;
use std::path::Path;

use clap::Args;
use quintet_engine::weights::{Layout, TokenizerSource};
use quintet_engine::{Checkpoint, ModelConfig};
use serde::Serialize;

use crate::model::{self, Located};
use crate::output::Output;
use crate::settings::Settings;
use crate::table::{Align, Paint, columns, grouped, size};

/// Describe a model: layout, shapes, adapters, memory, licence.
///
/// Reads the configuration and the headers of the weights, not the weights themselves.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  quintet info
  quintet info jinaai/jina-embeddings-v3-hf
  quintet info ./my-model --json | jq .adapters")]
pub(crate) struct InfoArgs {
    /// Model: a hub id that was pulled, a directory, or a .safetensors or .gguf file
    /// [env: QUINTET_MODEL] [default: jinaai/jina-embeddings-v3 if it was pulled, else the built-in mini]
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,
    /// The same, named as other commands do
    #[arg(long, short, value_name = "ID|PATH", hide = true)]
    model: Option<String>,
    /// Print the same as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    path: String,
    layout: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_tokens: usize,
    rope_theta: f64,
    layer_norm_eps: f32,
    matryoshka_dimensions: Vec<usize>,
    weights: Vec<Dtype>,
    parameters: Parameters,
    adapters: Vec<Adapter>,
    tokenizer: &'static str,
    memory: Memory,
    license: License,
}

#[derive(Serialize)]
struct Dtype {
    dtype: String,
    tensors: usize,
    parameters: usize,
    bytes: usize,
}

#[derive(Serialize)]
struct Parameters {
    base: usize,
    /// Stacked in the same file; adapters in files of their own are not counted.
    stacked_adapters: usize,
}

#[derive(Serialize)]
struct Adapter {
    task: String,
    instruction: String,
}

/// Estimates.
#[derive(Serialize)]
struct Memory {
    loaded_bytes: usize,
    longest_text_bytes: usize,
}

#[derive(Serialize)]
struct License {
    id: Option<String>,
    /// Where the id comes from.
    source: &'static str,
}

/// Runs the command.
pub(crate) fn run(args: &InfoArgs, settings: &Settings) -> anyhow::Result<()> {
    let name = args.positional.as_deref().or(args.model.as_deref());
    let located = model::locate(name, settings)?;
    let checkpoint = located.open()?;
    let report = Report::new(&located, checkpoint);
    let mut output = Output::stdout();
    if args.json {
        output.json(&report)?;
    } else {
        let paint = Paint {
            on: settings.colour,
        };
        write!(output, "{}", report.drawn(paint))?;
    }
    Ok(output.finish()?)
}

/// Resident bytes of the tokenizer per id, from 295 MB for 250002 ids (`tokenizers` 0.23).
const TOKENIZER_BYTES_PER_ID: usize = 1180;
/// f32 values per token that are alive at once, in widths of the hidden state: the states, their
/// projections and the attention's scratch, beside the MLP's inner layer.
const ACTIVATION_WIDTHS: usize = 7;

impl Report {
    fn new(located: &Located, checkpoint: Checkpoint) -> Self {
        let path = located.path();
        let directory = path.and_then(|path| {
            if path.is_dir() {
                Some(path)
            } else {
                path.parent()
            }
        });
        let is_adapter = |name: &str| name.contains(".lora_");
        let parameters = |wanted: bool| {
            let tensors = checkpoint
                .tensors()
                .filter(|(name, ..)| is_adapter(name) == wanted);
            tensors
                .map(|(_, shape, _)| shape.iter().product::<usize>())
                .sum()
        };
        let parameters = Parameters {
            base: parameters(false),
            stacked_adapters: parameters(true),
        };
        let weights: Vec<Dtype> = checkpoint
            .census()
            .into_iter()
            .map(|census| Dtype {
                dtype: census.dtype,
                tensors: census.tensors,
                parameters: census.parameters,
                bytes: census.bytes,
            })
            .collect();
        let (tokenizer, has_tokenizer) = match &checkpoint.tokenizer {
            TokenizerSource::File(_) | TokenizerSource::BuiltIn(_) => ("tokenizer.json", true),
            TokenizerSource::Gguf(_) => ("inside the GGUF file", true),
            TokenizerSource::Absent | _ => ("none: token ids only", false),
        };
        let license = License::find(located, directory, checkpoint.layout);
        let config = checkpoint.config;
        Self {
            model: located.name.clone(),
            path: path
                .map_or("built in".into(), Path::to_string_lossy)
                .into_owned(),
            layout: checkpoint.layout.to_string(),
            memory: Memory::estimate(&config, &weights, &parameters, has_tokenizer),
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            num_hidden_layers: config.num_hidden_layers,
            num_attention_heads: config.num_attention_heads,
            intermediate_size: config.intermediate_size,
            max_tokens: config.max_tokens,
            rope_theta: config.rope_theta,
            layer_norm_eps: config.layer_norm_eps,
            matryoshka_dimensions: config.matryoshka_dimensions,
            weights,
            parameters,
            adapters: checkpoint
                .adapters
                .into_iter()
                .map(|adapter| Adapter {
                    task: adapter.name,
                    instruction: adapter.instruction,
                })
                .collect(),
            tokenizer,
            license,
        }
    }

    fn drawn(&self, paint: Paint) -> String {
        let Self { parameters, .. } = self;
        let mut rows: Vec<(&str, String)> = vec![("model", self.model.clone())];
        if self.path != self.model {
            rows.push(("path", self.path.clone()));
        }
        rows.push(("layout", self.layout.clone()));
        rows.push((
            "shape",
            format!(
                "{} layers, hidden {}, {} heads, inner {}, {} ids",
                self.num_hidden_layers,
                self.hidden_size,
                self.num_attention_heads,
                self.intermediate_size,
                grouped(self.vocab_size)
            ),
        ));
        rows.push((
            "context",
            format!(
                "{} tokens, rotary base {}",
                self.max_tokens, self.rope_theta
            ),
        ));
        let sizes: Vec<String> = self
            .matryoshka_dimensions
            .iter()
            .map(usize::to_string)
            .collect();
        rows.push(("dimensions", format!("{} (trained)", sizes.join(", "))));
        let stacked = match parameters.stacked_adapters {
            0 => String::new(),
            count => format!(", and {} in the adapters", grouped(count)),
        };
        rows.push((
            "parameters",
            format!("{}{stacked}", grouped(parameters.base)),
        ));
        for weights in &self.weights {
            rows.push((
                "weights",
                format!(
                    "{} in {} tensors, {}",
                    weights.dtype,
                    weights.tensors,
                    size(weights.bytes as u64)
                ),
            ));
        }
        rows.push(("tokenizer", self.tokenizer.to_owned()));
        rows.push((
            "memory",
            format!(
                "about {} loaded, {} more for a text of {} tokens",
                size(self.memory.loaded_bytes as u64),
                size(self.memory.longest_text_bytes as u64),
                self.max_tokens
            ),
        ));
        rows.push(("licence", self.license.words()));
        let mut text = String::new();
        for (name, value) in rows {
            text.push_str(&format!(
                "{}  {value}\n",
                paint.with("2", &format!("{name:10}"))
            ));
        }
        text.push('\n');
        text.push_str(&self.drawn_adapters(paint));
        text
    }

    fn drawn_adapters(&self, paint: Paint) -> String {
        if self.adapters.is_empty() {
            return "no adapters: base weights, for the task `raw` only\n".to_owned();
        }
        let rows: Vec<Vec<String>> = self
            .adapters
            .iter()
            .map(|adapter| {
                let instruction = match adapter.instruction.as_str() {
                    "" => "no instruction".to_owned(),
                    instruction => format!("`{instruction}`"),
                };
                vec![adapter.task.clone(), instruction]
            })
            .collect();
        let head = paint.with("2", &format!("{} tasks, beside `raw`", rows.len()));
        format!("{head}\n{}", columns(&rows, &[Align::Left, Align::Left]))
    }
}

impl Memory {
    /// Weights stay in the file's type, adapters become f32, and the pooler is not loaded.
    fn estimate(
        config: &ModelConfig,
        weights: &[Dtype],
        parameters: &Parameters,
        has_tokenizer: bool,
    ) -> Self {
        let bytes: usize = weights.iter().map(|weights| weights.bytes).sum();
        let total = (parameters.base + parameters.stacked_adapters).max(1);
        let per_parameter = bytes as f64 / total as f64;
        let hidden = config.hidden_size;
        let pooler = hidden * (hidden + 1);
        let base = (parameters.base.saturating_sub(pooler) as f64 * per_parameter) as usize;
        let tokenizer = if has_tokenizer {
            config.vocab_size * TOKENIZER_BYTES_PER_ID
        } else {
            0
        };
        let per_token = ACTIVATION_WIDTHS * hidden + config.intermediate_size;
        Self {
            loaded_bytes: base + parameters.stacked_adapters * size_of::<f32>() + tokenizer,
            longest_text_bytes: config.max_tokens * per_token * size_of::<f32>(),
        }
    }
}

impl License {
    fn find(located: &Located, directory: Option<&Path>, layout: Layout) -> Self {
        let card = directory
            .and_then(|directory| std::fs::read_to_string(directory.join("README.md")).ok());
        if let Some(id) = card.as_deref().and_then(front_matter_license) {
            return Self {
                id: Some(id.to_owned()),
                source: "README.md",
            };
        }
        if located.path().is_none() {
            return Self {
                id: Some("apache-2.0".to_owned()),
                source: "trained by Quintet; its model card names the licences of its data",
            };
        }
        let is_jinas = located
            .hub_id
            .as_ref()
            .is_some_and(|id| id.org() == "jinaai");
        if is_jinas && layout != Layout::Gguf {
            return Self {
                id: Some("cc-by-nc-4.0".to_owned()),
                source: "known for jinaai's models",
            };
        }
        Self {
            id: None,
            source: "not stated beside the weights",
        }
    }

    fn words(&self) -> String {
        match self.id.as_deref() {
            Some("cc-by-nc-4.0") => {
                format!("CC BY-NC 4.0, not for commercial use ({})", self.source)
            }
            Some(id) => format!("{id} ({})", self.source),
            None => {
                format!("{}; Jina AI's weights are CC BY-NC 4.0", self.source)
            }
        }
    }
}

/// `license:` in the YAML block at the beginning of a model card.
fn front_matter_license(card: &str) -> Option<&str> {
    let block = card.trim_start_matches('\u{feff}').strip_prefix("---")?;
    let end = block.find("\n---")?;
    let line = block[..end]
        .lines()
        .find_map(|line| line.strip_prefix("license:"))?;
    let id = line.trim().trim_matches(['"', '\'']);
    (!id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_stands_in_the_front_matter() {
        let found = front_matter_license;
        assert_eq!(
            found("---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\n# x"),
            Some("cc-by-nc-4.0")
        );
        assert_eq!(found("---\r\nlicense: 'mit'\r\n---\r\n"), Some("mit"));
        assert_eq!(found("# x\nlicense: mit\n"), None);
        assert_eq!(found("---\nlicense:\n---\n"), None);
    }
}
