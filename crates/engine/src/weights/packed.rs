//! The base model and its adapters, every tensor checked and packed for the kernels.

use std::cell::RefCell;

use quintet_kernels::Cpu;
use quintet_kernels::gemm::{Moments, PackedMatrix, Rows};

use super::CheckpointError;
use super::adapters::{Adapter, AdapterSource};
use super::checkpoint::Checkpoint;
use super::names::{Layout, Part};
use super::pack_file::PackFile;
use super::tensors::{Table, Tensor, rows};
use crate::precision::{Precision, Precisions};

/// Matrices of a layer: Wqkv, out_proj, fc1, fc2.
pub(crate) const MATRICES_PER_LAYER: usize = 4;

/// A linear layer: packed weight `[out, in]` and bias `[out]`.
pub(crate) struct Linear {
    pub(crate) matrix: PackedMatrix,
    pub(crate) bias: Vec<f32>,
}

/// LayerNorm's gain and shift, `[hidden]` each.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// One transformer layer, fields named as the checkpoint names them.
pub(crate) struct LayerWeights {
    pub(crate) wqkv: Linear,
    pub(crate) out_proj: Linear,
    pub(crate) norm1: Norm,
    pub(crate) fc1: Linear,
    pub(crate) fc2: Linear,
    pub(crate) norm2: Norm,
}

/// The base model and its adapters, checked and packed.
pub(crate) struct Weights {
    pub(crate) word_embeddings: Table,
    pub(crate) token_type_embedding: Vec<f32>,
    pub(crate) emb_ln: Norm,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) adapters: Vec<Adapter>,
}

impl LayerWeights {
    /// Its matrices, in the order in which they are loaded.
    pub(crate) fn matrices(&self) -> [&PackedMatrix; MATRICES_PER_LAYER] {
        let LayerWeights {
            wqkv,
            out_proj,
            fc1,
            fc2,
            ..
        } = self;
        [wqkv, out_proj, fc1, fc2].map(|linear| &linear.matrix)
    }
}

impl Weights {
    /// The matrices of all layers, in the order in which they are loaded.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.layers.iter().flat_map(LayerWeights::matrices)
    }

    /// Reads every tensor once: shape, dtype and finiteness are checked, matrices packed, and their
    /// file pages given back. Matrices that lie `packed` in a file are taken from there, and the word
    /// table is not read again; `custom` adapters come behind the checkpoint's own.
    /// `progress` hears how many of how many steps are done.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        custom: &[AdapterSource],
        precision: &Precisions<'_>,
        packed: Option<PackFile>,
        cpu: &Cpu,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Self, CheckpointError> {
        checkpoint.check_names()?;
        let sources: Vec<&AdapterSource> = checkpoint.adapters.iter().chain(custom).collect();
        for (index, source) in sources.iter().enumerate() {
            let earlier = &sources[..index];
            if source.name == "raw" || earlier.iter().any(|earlier| earlier.name == source.name) {
                return Err(CheckpointError::AdapterTwice {
                    name: source.name.clone(),
                });
            }
        }
        let config = &checkpoint.config;
        let steps = config.num_hidden_layers + sources.len() + 1;
        let read = WeightReader {
            checkpoint,
            precision,
            packed: packed.map(|file| RefCell::new(file.into_matrices())),
            cpu,
        };
        progress(0, steps);
        let word_embeddings = read.table(Part::WordEmbeddings)?;
        let token_type_embedding = read.token_type()?;
        let emb_ln = read.norm(Part::EmbeddingNorm)?;
        let pooler = Part::Pooler.stems(checkpoint.layout).remove(0);
        if checkpoint.find(&format!("{pooler}.bias")).is_some() {
            read.check_linear(Part::Pooler)?;
        }
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            progress(1 + layer, steps);
            let linear = |module| read.linear(layer * MATRICES_PER_LAYER + module);
            layers.push(LayerWeights {
                wqkv: linear(0)?,
                out_proj: linear(1)?,
                norm1: read.norm(Part::Norm1(layer))?,
                fc1: linear(2)?,
                fc2: linear(3)?,
                norm2: read.norm(Part::Norm2(layer))?,
            });
        }
        let mut adapters = Vec::with_capacity(sources.len());
        for (index, source) in sources.iter().enumerate() {
            progress(1 + config.num_hidden_layers + index, steps);
            let find = |name: &str| checkpoint.find(name);
            adapters.push(source.load(config, &find, &checkpoint.weights_path())?);
        }
        progress(steps, steps);
        Ok(Self {
            word_embeddings,
            token_type_embedding,
            emb_ln,
            layers,
            adapters,
        })
    }
}

/// A matrix of [`Weights::matrices`], packed from the checkpoint at any precision.
pub(crate) fn matrix_of(
    checkpoint: &Checkpoint,
    index: usize,
    precision: Precision,
    cpu: &Cpu,
) -> Result<PackedMatrix, CheckpointError> {
    let precision = &Precisions::all(precision);
    let read = WeightReader {
        checkpoint,
        precision,
        packed: None,
        cpu,
    };
    read.matrix(index)
}

/// The same in 8 bits, rounded for rows of these moments.
pub(crate) fn compensated_matrix_of(
    checkpoint: &Checkpoint,
    index: usize,
    moments: Moments,
    cpu: &Cpu,
) -> Result<PackedMatrix, CheckpointError> {
    let precision = &Precisions::all(Precision::Fast);
    let read = WeightReader {
        checkpoint,
        precision,
        packed: None,
        cpu,
    };
    read.pack(index, |blocks, _, smoothing| {
        let compensation = moments.compensation(cpu, smoothing);
        PackedMatrix::pack_compensated(cpu, blocks, smoothing, &compensation)
    })
}

/// What the checkpoint calls a matrix of [`Weights::matrices`] when it keeps it whole.
pub(crate) fn matrix_name(index: usize) -> String {
    Part::of_matrix(index).name()
}

/// Reads parts of one checkpoint, checking shape, dtype and finiteness of each tensor.
struct WeightReader<'a> {
    checkpoint: &'a Checkpoint,
    precision: &'a Precisions<'a>,
    /// The matrices of a file of packed weights that are still to be taken.
    packed: Option<RefCell<std::vec::IntoIter<PackedMatrix>>>,
    cpu: &'a Cpu,
}

impl<'a> WeightReader<'a> {
    /// The tensors that make up a part's weight, stacked along the first axis.
    fn weight(&self, part: Part) -> Result<Vec<Tensor<'a>>, CheckpointError> {
        let tensors = self.unchecked_weight(part)?;
        for tensor in &tensors {
            tensor.check_finite(self.cpu)?;
        }
        Ok(tensors)
    }

    /// The same with their numbers unseen.
    fn unchecked_weight(&self, part: Part) -> Result<Vec<Tensor<'a>>, CheckpointError> {
        let layout = self.checkpoint.layout;
        let stems = part.stems(layout);
        let mut shape = part.weight_shape(&self.checkpoint.config);
        shape[0] /= stems.len();
        let require = |stem| {
            let name = format!("{stem}{}", part.weight_suffix(layout));
            self.checkpoint.require(&name, &shape)
        };
        stems.iter().map(require).collect()
    }

    fn bias(&self, part: Part) -> Result<Vec<f32>, CheckpointError> {
        let stems = part.stems(self.checkpoint.layout);
        let len = part.weight_shape(&self.checkpoint.config)[0] / stems.len();
        let mut bias = Vec::with_capacity(len * stems.len());
        for stem in stems {
            let tensor = self.checkpoint.require(&format!("{stem}.bias"), &[len])?;
            tensor.check_finite(self.cpu)?;
            bias.extend(tensor.to_f32()?);
        }
        Ok(bias)
    }

    fn table(&self, part: Part) -> Result<Table, CheckpointError> {
        let tensor = self.unchecked_weight(part)?.remove(0);
        // Packed weights were made after the same checkpoint had been checked, and reading its largest
        // tensor again would double what a start takes from a cold disk.
        if self.packed.is_none() {
            tensor.check_finite_and_release(self.cpu)?;
        }
        tensor.to_table()
    }

    /// The one token-type row; GGUF may store it without its leading size of 1.
    fn token_type(&self) -> Result<Vec<f32>, CheckpointError> {
        let part = Part::TokenTypeEmbeddings;
        let layout = self.checkpoint.layout;
        let name = format!("{}{}", part.stems(layout)[0], part.weight_suffix(layout));
        let hidden = self.checkpoint.config.hidden_size;
        let flat = self
            .checkpoint
            .find(&name)
            .is_some_and(|tensor| tensor.shape() == [hidden]);
        let shape: &[usize] = if flat && layout == Layout::Gguf {
            &[hidden]
        } else {
            &[1, hidden]
        };
        let tensor = self.checkpoint.require(&name, shape)?;
        tensor.check_finite(self.cpu)?;
        tensor.to_f32()
    }

    fn norm(&self, part: Part) -> Result<Norm, CheckpointError> {
        let weight = self.weight(part)?.remove(0).to_f32()?;
        Ok(Norm {
            weight,
            bias: self.bias(part)?,
        })
    }

    fn check_linear(&self, part: Part) -> Result<(), CheckpointError> {
        self.weight(part)?;
        self.bias(part).map(|_| ())
    }

    fn linear(&self, index: usize) -> Result<Linear, CheckpointError> {
        let part = Part::of_matrix(index);
        let shape = part.weight_shape(&self.checkpoint.config);
        let packed = self.packed.as_ref().and_then(|matrices| {
            let matrix = matrices.borrow_mut().next()?;
            ([matrix.n(), matrix.k()] == shape[..]).then_some(matrix)
        });
        let matrix = match packed {
            Some(matrix) => matrix.with_smoothing(&self.smoothing(index)?),
            None => self.matrix(index)?,
        };
        Ok(Linear {
            matrix,
            bias: self.bias(part)?,
        })
    }

    fn matrix(&self, index: usize) -> Result<PackedMatrix, CheckpointError> {
        let precision = self.precision.of(index);
        let shape = Part::of_matrix(index).weight_shape(&self.checkpoint.config);
        let rounded = self.precision.rounded.get(index);
        let fits = |matrix: &&PackedMatrix| [matrix.n(), matrix.k()] == shape[..];
        if let Some(matrix) = rounded.filter(fits)
            && precision == Precision::Fast
        {
            return Ok(matrix.clone());
        }
        self.pack(index, |blocks, k, smoothing| {
            let format = precision.format(blocks);
            PackedMatrix::pack_smoothed(self.cpu, blocks, k, format, smoothing)
        })
    }

    /// Reads a matrix and packs it, given its blocks of rows, their length and what smooths their
    /// columns.
    fn pack(
        &self,
        index: usize,
        pack: impl FnOnce(&[Rows<'_>], usize, &[f32]) -> PackedMatrix,
    ) -> Result<PackedMatrix, CheckpointError> {
        let part = Part::of_matrix(index);
        let tensors = self.weight(part)?;
        let bytes = tensors
            .iter()
            .map(Tensor::packable)
            .collect::<Result<Vec<_>, _>>()?;
        let blocks: Vec<_> = bytes
            .iter()
            .map(|(dtype, bytes)| rows(*dtype, bytes))
            .collect();
        let k = part.weight_shape(&self.checkpoint.config)[1];
        let matrix = pack(&blocks, k, &self.smoothing(index)?);
        tensors.iter().for_each(Tensor::release);
        Ok(matrix)
    }

    /// What the columns of a matrix are smoothed by: the norm before it, if one stands there, tells
    /// which numbers of its rows are large.
    fn smoothing(&self, index: usize) -> Result<Vec<f32>, CheckpointError> {
        let part = Part::of_matrix(index);
        let norm = if let Part::Wqkv(layer) = part {
            layer
                .checked_sub(1)
                .map_or(Part::EmbeddingNorm, Part::Norm2)
        } else if let Part::Fc1(layer) = part {
            Part::Norm1(layer)
        } else {
            return Ok(vec![1.0; part.weight_shape(&self.checkpoint.config)[1]]);
        };
        Ok(smoothing_of(&self.norm(norm)?))
    }
}

/// Powers of 2 from 1 to 16, about the square roots of what the channels of a norm reach, measured by
/// their median: the half of the way that SmoothQuant takes (alpha = 0.5), known without a text.
/// Comparisons instead of logarithms: every machine finds the same powers.
fn smoothing_of(norm: &Norm) -> Vec<f32> {
    let pairs = norm.weight.iter().zip(&norm.bias);
    let reach: Vec<f32> = pairs
        .map(|(gain, shift)| gain.abs() + shift.abs())
        .collect();
    let mut sorted = reach.clone();
    sorted.sort_by(f32::total_cmp);
    let median = sorted[sorted.len() / 2];
    let power = |reach: &f32| {
        let mut power = 1.0;
        while power < 16.0 && *reach > median * 2.0 * power * power {
            power *= 2.0;
        }
        power
    };
    reach.iter().map(power).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_far_above_the_median_are_smoothed_by_half_the_way() {
        let norm = Norm {
            weight: vec![1.0, -1.0, 1.5, 10.0, -40.0, 1e9, 0.0],
            bias: vec![0.0; 7],
        };
        assert_eq!(smoothing_of(&norm), [1.0, 1.0, 1.0, 2.0, 4.0, 16.0, 1.0]);
    }
}
