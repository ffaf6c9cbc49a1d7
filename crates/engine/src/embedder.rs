//! The façade and the main flow: text -> token ids -> packed batches -> encoder -> embeddings.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use quintet_kernels::gemm::PackedMatrix;
use quintet_kernels::{Cpu, Isa};

use crate::batch::{PackedBatch, Sequence, plan};
use crate::calibration::RoundedMatrices;
use crate::config::ModelConfig;
use crate::embedding::finish;
use crate::encoder::{CpuEncoder, CpuPass, Encoder, LayerMoments, PooledRows};
use crate::error::{EmbedError, LoadError};
use crate::input::{Dimensions, EmbedOptions, Embedded, Input, InputReader, Truncate};
use crate::late_chunking::{
    self, ChunkPooling, Document, DocumentTokens, LongDocument, Owner, SpanError, Windows,
};
use crate::precision::{Precision, Precisions};
use crate::task::{self, Task, UnknownTask};
use crate::tokenizer::Tokenizer;
use crate::weights::{AdapterSource, Checkpoint, PackFile, PackFileError, Weights};

/// How a model is loaded.
pub struct LoadOptions<'a> {
    /// Threads of the engine's pool.
    pub threads: NonZeroUsize,
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// Arithmetic of the weight products.
    pub precision: Precision,
    /// Matrices that are `balanced` instead, by their place among the packed ones: Wqkv, out_proj,
    /// fc1 and fc2 of each layer in turn. [`Sensitivity`](crate::Sensitivity) tells which want it.
    pub balanced: &'a [usize],
    /// Those that are `fast` and not rounded to nearest: what
    /// [`round`](crate::calibration::round) made of this checkpoint.
    pub rounded: Option<&'a RoundedMatrices>,
    /// A file that [`Embedder::write_packed`] made of this checkpoint at this precision.
    pub packed: Option<&'a Path>,
    /// Adapters beside those of the checkpoint.
    pub adapters: Vec<AdapterSource>,
    /// Tokens that one batch holds at most; a longer text gets a batch of its own. It moves memory and
    /// speed, never a result.
    pub token_budget: usize,
    /// Hears how many of how many loading steps are done.
    pub progress: &'a dyn Fn(usize, usize),
}

/// Enough tokens to keep every product near its best rate, few enough to stay in the caches' reach.
const DEFAULT_TOKEN_BUDGET: usize = 1024;

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            isa: Isa::best(),
            precision: Precision::Exact,
            balanced: &[],
            rounded: None,
            packed: None,
            adapters: Vec::new(),
            token_budget: DEFAULT_TOKEN_BUDGET,
            progress: &|_, _| (),
        }
    }
}

/// A loaded model: the one object that a program needs.
pub struct Embedder {
    cpu: Arc<Cpu>,
    config: ModelConfig,
    precision: Precision,
    tokenizer: Option<Tokenizer>,
    weights: Arc<Weights>,
    encoder: Mutex<CpuEncoder>,
    token_budget: usize,
}

impl Embedder {
    /// Loads a checkpoint: every tensor is checked and packed, the tokenizer is made.
    ///
    /// # Errors
    /// [`LoadError`] when a weight, an adapter or the tokenizer is refused.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions<'_>) -> Result<Self, LoadError> {
        let cpu = Arc::new(Cpu::new(options.isa, options.threads));
        let config = checkpoint.config.clone();
        // Each is about half of a start from packed weights.
        let (tokenizer, weights) = thread::scope(|scope| {
            let tokenizer =
                scope.spawn(|| Tokenizer::open(&checkpoint.tokenizer, config.vocab_size));
            let weights = load_weights(checkpoint, options, &cpu);
            let tokenizer = tokenizer.join();
            (
                tokenizer.unwrap_or_else(|panic| resume_unwind(panic)),
                weights,
            )
        });
        let (tokenizer, weights) = (tokenizer?, Arc::new(weights?));
        let encoder = CpuEncoder::new(Arc::clone(&cpu), config.clone(), Arc::clone(&weights));
        let token_budget = options.token_budget.max(1);
        Ok(Self {
            cpu,
            config,
            precision: options.precision,
            tokenizer,
            weights,
            encoder: Mutex::new(encoder),
            token_budget,
        })
    }

    /// Writes the packed weights to a file that [`LoadOptions::packed`] can name, and returns its
    /// bytes. `checkpoint` is the one that was loaded; the file is no use without it.
    ///
    /// # Errors
    /// [`PackFileError::Io`] when the file cannot be written. What was at `path` before stays then.
    pub fn write_packed(&self, checkpoint: &Checkpoint, path: &Path) -> Result<u64, PackFileError> {
        PackFile::write(path, checkpoint, self.precision, &self.weights, &self.cpu)
    }

    /// The numbers of each packed matrix, in their order.
    pub(crate) fn matrix_sizes(&self) -> Vec<usize> {
        let matrices = self.weights.matrices();
        matrices.map(|matrix| matrix.n() * matrix.k()).collect()
    }

    /// Runs with another matrix in the place of one of the model's, until the next call.
    pub(crate) fn set_trial(&self, trial: Option<(usize, PackedMatrix)>) {
        let mut encoder = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        encoder.set_trial(trial);
    }

    /// For each layer in turn the moments of all rows that its matrices are multiplied with when the
    /// model embeds `inputs`, of which those beyond `max_tokens` are left out, but not the first. The
    /// activations of the others are in memory together.
    pub(crate) fn moments_by_layer(
        &self,
        inputs: &[Input<'_>],
        max_tokens: usize,
    ) -> Result<impl Iterator<Item = Result<LayerMoments, EmbedError>>, EmbedError> {
        let read = self.input_reader().read_all(inputs, Truncate::default())?;
        let mut tokens = 0;
        let fits = |sequence: &Sequence| {
            tokens += sequence.token_ids.len();
            tokens <= max_tokens || tokens == sequence.token_ids.len()
        };
        let sequences = read.into_iter().map(|read| read.sequence);
        let sequences: Vec<Sequence> = sequences.take_while(fits).collect();
        let passes = plan(&sequences, self.token_budget)
            .into_iter()
            .map(|indices| {
                let batch = PackedBatch::pack(indices.iter().map(|&index| &sequences[index]));
                self.encoder().begin(batch)
            });
        let mut passes = passes.collect::<Result<Vec<_>, _>>()?;
        let layers = 0..self.config.num_hidden_layers;
        Ok(layers.map(move |layer| Ok(self.encoder().moments(layer, &mut passes)?)))
    }

    /// Arithmetic of the weight products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Embeds texts or token ids, each with its own task; the results stand in the order of `inputs`.
    ///
    /// # Errors
    /// [`EmbedError`] naming the input that is too long, empty or out of the vocabulary. Nothing is
    /// computed then.
    pub fn embed(
        &self,
        inputs: &[Input<'_>],
        options: &EmbedOptions,
    ) -> Result<Vec<Embedded>, EmbedError> {
        let read = self.input_reader().read_all(inputs, options.truncate)?; // text -> token ids
        let (sequences, truncated): (Vec<_>, Vec<_>) = read
            .into_iter()
            .map(|read| (read.sequence, read.truncated))
            .unzip();
        let pooled = self.pool(&sequences)?; // longest first, layers + adapters + sums
        let rows = sequences.iter().zip(pooled).zip(truncated);
        Ok(rows
            .map(|((sequence, mut sums), truncated)| {
                let tokens = sequence.token_ids.len();
                let embedding = self.finish(sums.swap_remove(0), tokens, options);
                Embedded {
                    tokens,
                    truncated,
                    embedding,
                }
            })
            .collect())
    }

    /// Embeds a document and its chunks from the same pass (late chunking).
    ///
    /// # Errors
    /// [`EmbedError`] for spans that do not fit the text, and for what [`Embedder::embed`] refuses.
    pub fn embed_document(
        &self,
        document: Document<'_>,
        task: Task,
        pooling: ChunkPooling,
        long: LongDocument,
        options: &EmbedOptions,
    ) -> Result<EmbeddedDocument, EmbedError> {
        let (tokens, windows) = self.prepare_document(document, task, pooling, long)?;
        self.pool_document(&tokens, &windows, options)
    }

    /// Tokenises one input on the calling thread: the first half of [`Embedder::embed`], for callers
    /// that pack batches of their own.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; `index` is 0.
    pub fn prepare(&self, input: Input<'_>, truncate: Truncate) -> Result<Prepared, EmbedError> {
        let mut read = self.input_reader().read_all(&[input], truncate)?;
        let read = read.swap_remove(0);
        Ok(Prepared {
            sequence: read.sequence,
            truncated: read.truncated,
        })
    }

    /// Tokenises a document and cuts it into windows: the first half of [`Embedder::embed_document`].
    ///
    /// # Errors
    /// As [`Embedder::embed_document`].
    pub fn prepare_document(
        &self,
        document: Document<'_>,
        task: Task,
        pooling: ChunkPooling,
        long: LongDocument,
    ) -> Result<(DocumentTokens, Windows), EmbedError> {
        let tokenizer = self.tokenizer.as_ref().ok_or(EmbedError::NoTokenizer)?;
        let mut tokens =
            late_chunking::tokenize(tokenizer, self.instruction(task), document, pooling)?;
        let context = self.config.max_tokens;
        let overlap = match long {
            LongDocument::Cut => {
                tokens.cut(context);
                0
            }
            LongDocument::Refuse => {
                self.input_reader().check_ids(0, &tokens.token_ids)?;
                0
            }
            LongDocument::Windows { overlap } if overlap < context => overlap,
            LongDocument::Windows { overlap } => {
                return Err(SpanError::Overlap { overlap, context }.into());
            }
        };
        let windows = tokens.windows(context, overlap, task);
        Ok((tokens, windows))
    }

    /// Runs one batch of prepared sequences, whatever its size: sums of hidden states per span.
    ///
    /// # Errors
    /// [`EmbedError::Forward`] when the device fails.
    pub fn forward(&self, batch: PackedBatch) -> Result<PooledRows, EmbedError> {
        Ok(self.encoder().forward(batch)?)
    }

    /// Begins what [`Embedder::forward`] does at once, so that others can run between its steps.
    ///
    /// # Errors
    /// [`EmbedError::Forward`] when the device fails.
    pub fn begin(&self, batch: PackedBatch) -> Result<Pass, EmbedError> {
        Ok(Pass(self.encoder().begin(batch)?))
    }

    /// Runs the next step of a pass; the last one gives the rows and ends it. A step at the true size is
    /// about 75 ms of one core, whatever the batch.
    ///
    /// # Errors
    /// [`EmbedError::Forward`] when the device fails; the pass is lost then.
    pub fn step(&self, pass: &mut Pass) -> Result<Option<PooledRows>, EmbedError> {
        Ok(self.encoder().step(&mut pass.0)?)
    }

    /// The share of a pass that has run, 0 to 1.
    pub fn done(&self, pass: &Pass) -> f64 {
        self.encoder().done(&pass.0)
    }

    fn encoder(&self) -> MutexGuard<'_, CpuEncoder> {
        // A panic in another thread leaves only buffers behind, and each step writes them anew.
        self.encoder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an embedding of the sum over `tokens` rows: mean, cut, norm.
    pub fn finish(&self, sum: Vec<f32>, tokens: usize, options: &EmbedOptions) -> Vec<f32> {
        let dimensions = options
            .dimensions
            .map_or(self.config.hidden_size, Dimensions::value);
        finish(mean(sum, tokens), dimensions, options.normalize)
    }

    /// Embeds a document that the caller has tokenised and cut into windows.
    ///
    /// # Errors
    /// [`EmbedError`] when a window's ids are refused; `index` counts the windows.
    pub fn embed_windows(
        &self,
        document: &DocumentTokens,
        windows: &Windows,
        options: &EmbedOptions,
    ) -> Result<EmbeddedDocument, EmbedError> {
        let reader = self.input_reader();
        for (index, sequence) in windows.sequences.iter().enumerate() {
            reader.check_ids(index, &sequence.token_ids)?;
        }
        self.pool_document(document, windows, options)
    }

    /// Adds up a document's windows, `pooled` being `[windows][spans][hidden]`: the step between
    /// [`Embedder::forward`] and [`Embedder::finish`] for a document.
    pub fn document_sums(
        &self,
        document: &DocumentTokens,
        windows: &Windows,
        pooled: &[Vec<Vec<f32>>],
    ) -> DocumentSums {
        let hidden = self.config.hidden_size;
        let mut sums = DocumentSums {
            document: vec![0.0; hidden],
            chunks: vec![vec![0.0; hidden]; document.spans.len()],
        };
        for (owners, pooled) in windows.owners.iter().zip(pooled) {
            for (owner, row) in owners.iter().zip(pooled) {
                let sum = match owner {
                    Owner::Document => &mut sums.document,
                    Owner::Chunk(index) => &mut sums.chunks[*index],
                };
                sum.iter_mut()
                    .zip(row)
                    .for_each(|(sum, value)| *sum += value);
            }
        }
        sums
    }

    /// Final hidden states of one sequence, one row of `hidden_size` per token.
    ///
    /// # Errors
    /// [`EmbedError`] when the ids are refused.
    pub fn hidden_states(
        &self,
        token_ids: &[u32],
        task: Task,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.input_reader().check_ids(0, token_ids)?;
        let spans = (0..token_ids.len()).map(|token| token..token + 1).collect();
        let sequence = Sequence {
            token_ids: token_ids.to_vec(),
            task,
            spans,
        };
        Ok(self.pool(&[sequence])?.swap_remove(0))
    }

    /// Finds a task by name: one of the checkpoint's, a custom adapter's, or `raw`.
    ///
    /// # Errors
    /// [`UnknownTask`] listing what the model has.
    pub fn task(&self, name: &str) -> Result<Task, UnknownTask> {
        task::find(&self.weights.adapters, name)
    }

    /// Names of the adapters, in table order; `raw` is not among them.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.weights
            .adapters
            .iter()
            .map(|adapter| adapter.name.as_str())
    }

    /// The text that is put before every input of a task; empty for none.
    pub fn instruction(&self, task: Task) -> &str {
        task.adapter()
            .map_or("", |index| &self.weights.adapters[index].instruction)
    }

    /// Shapes and constants of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tokenizer, where the checkpoint has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The processor as this model uses it.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Checks a Matryoshka size against the model.
    ///
    /// # Errors
    /// [`EmbedError::Dimensions`] outside `1..=hidden_size`.
    pub fn dimensions(&self, dimensions: usize) -> Result<Dimensions, EmbedError> {
        Dimensions::new(dimensions, &self.config)
    }

    fn input_reader(&self) -> InputReader<'_> {
        InputReader {
            cpu: &self.cpu,
            tokenizer: self.tokenizer.as_ref(),
            adapters: &self.weights.adapters,
            config: &self.config,
        }
    }

    fn pool_document(
        &self,
        document: &DocumentTokens,
        windows: &Windows,
        options: &EmbedOptions,
    ) -> Result<EmbeddedDocument, EmbedError> {
        let pooled = self.pool(&windows.sequences)?;
        let sums = self.document_sums(document, windows, &pooled);
        let finish = |sum, len| self.finish(sum, len, options);
        Ok(EmbeddedDocument {
            tokens: document.token_ids.len(),
            truncated: document.truncated,
            windows: windows.sequences.len(),
            embedding: finish(sums.document, document.token_ids.len()),
            chunks: document
                .spans
                .iter()
                .zip(sums.chunks)
                .map(|(span, sum)| span.as_ref().map(|span| finish(sum, span.len())))
                .collect(),
        })
    }

    /// Sums of hidden states per sequence and span, in the order of `sequences`.
    fn pool(&self, sequences: &[Sequence]) -> Result<Vec<Vec<Vec<f32>>>, EmbedError> {
        let mut pooled = vec![Vec::new(); sequences.len()];
        for indices in plan(sequences, self.token_budget) {
            let batch = PackedBatch::pack(indices.iter().map(|&index| &sequences[index]));
            let rows = self.forward(batch)?;
            let mut rows = rows.rows();
            for index in indices {
                let count = sequences[index].spans.len();
                pooled[index] = rows.by_ref().take(count).map(<[f32]>::to_vec).collect();
            }
        }
        Ok(pooled)
    }
}

/// Shows the model's shape, not a gigabyte of weights.
impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A batch between two steps: [`Embedder::begin`] makes it, [`Embedder::step`] runs it on, and dropping it
/// gives it up.
pub struct Pass(CpuPass);

/// An input as the model will see it, ready for a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The token ids, pooled as a whole.
    pub sequence: Sequence,
    /// Whether the tail of the input was cut off.
    pub truncated: bool,
}

/// Sums of hidden states over a document and over each of its chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentSums {
    /// `[hidden]`.
    pub document: Vec<f32>,
    /// `[chunks][hidden]`, zeros for a chunk that lies behind the cut.
    pub chunks: Vec<Vec<f32>>,
}

/// A document's vector and those of its chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddedDocument {
    /// Tokens of the document that the model saw once or more, specials and instruction included.
    pub tokens: usize,
    /// Whether the tail was cut off.
    pub truncated: bool,
    /// Passes that it took: 1 unless the document is longer than the context.
    pub windows: usize,
    /// The whole document's vector.
    pub embedding: Vec<f32>,
    /// One vector per chunk, `None` for a chunk that lies behind the cut.
    pub chunks: Vec<Option<Vec<f32>>>,
}

/// The weights of a checkpoint, from the packed ones if they are named.
fn load_weights(
    checkpoint: &Checkpoint,
    options: &LoadOptions<'_>,
    cpu: &Cpu,
) -> Result<Weights, LoadError> {
    let open = |path| PackFile::open(path, checkpoint, options.precision, cpu);
    let packed = options.packed.map(open).transpose()?;
    let precisions = Precisions {
        most: options.precision,
        balanced: options.balanced,
        rounded: options.rounded.map_or(&[][..], |rounded| &rounded.0),
    };
    let (adapters, progress) = (&options.adapters, options.progress);
    Ok(Weights::load(
        checkpoint,
        adapters,
        &precisions,
        packed,
        cpu,
        progress,
    )?)
}

/// Sum over `tokens` rows to their mean.
fn mean(mut sum: Vec<f32>, tokens: usize) -> Vec<f32> {
    let tokens = tokens as f32;
    sum.iter_mut().for_each(|value| *value /= tokens);
    sum
}
