//! Adapters stacked by task in one file: the original layout.

use std::path::Path;

use super::{Factors, FactorsByPart, finite, lora_shapes};
use crate::config::ModelConfig;
use crate::weights::CheckpointError;
use crate::weights::names::{Layout, Part};
use crate::weights::tensors::Tensor;

/// Names of a module's stacked tensors behind its stem.
pub(in crate::weights) const STACKED_A: &str = ".parametrizations.weight.0.lora_A";
pub(in crate::weights) const STACKED_B: &str = ".parametrizations.weight.0.lora_B";

/// Task `index` of tensors stacked `[tasks, …]`. `complete` demands them for every module.
pub(super) fn factors<'a>(
    config: &ModelConfig,
    find: &dyn Fn(&str) -> Option<Tensor<'a>>,
    path: &Path,
    index: usize,
    complete: bool,
) -> Result<FactorsByPart, CheckpointError> {
    let mut factors = FactorsByPart::new();
    for part in Part::all(config).filter(|part| part.takes_lora() && *part != Part::Pooler) {
        let stem = &part.stems(Layout::Original)[0];
        let (name_a, name_b) = (format!("{stem}{STACKED_A}"), format!("{stem}{STACKED_B}"));
        let (a, b) = match (find(&name_a), find(&name_b)) {
            (Some(a), Some(b)) => (a, b),
            (None, None) if !complete => continue,
            (a, _) => {
                let name = if a.is_none() { name_a } else { name_b };
                return Err(CheckpointError::Missing {
                    path: path.to_owned(),
                    name,
                    expected: vec![],
                });
            }
        };
        let rank_axis = if part.is_embedding() { 2 } else { 1 };
        let rank = a.shape().get(rank_axis).copied().unwrap_or(0).max(1);
        let tasks = a.shape().first().copied().unwrap_or(0).max(index + 1);
        let [shape_a, shape_b] = lora_shapes(part, config, rank);
        let slice = |tensor: Tensor<'_>, shape: Vec<usize>| {
            let len: usize = shape.iter().product();
            let mut stacked = vec![tasks];
            stacked.extend(shape);
            tensor.expect_shape(&stacked)?;
            finite(tensor, tensor.slice_f32(index * len, len)?)
        };
        let (a, b) = (slice(a, shape_a)?, slice(b, shape_b)?);
        factors.insert(part, Factors { rank, a, b });
    }
    Ok(factors)
}
