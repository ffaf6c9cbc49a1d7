//! Checks of a checkpoint before any weight is read: configuration against tensors, names against layout.

use std::collections::BTreeSet;

use super::CheckpointError;
use super::adapters::lora_shapes;
use super::adapters::stacked::{STACKED_A, STACKED_B};
use super::checkpoint::Checkpoint;
use super::names::{Layout, Part, is_ignorable};

impl Checkpoint {
    /// Refuses contradictions between configuration and tensors, then missing and extra names.
    pub(super) fn check_names(&self) -> Result<(), CheckpointError> {
        self.check_config()?;
        let mut known = BTreeSet::new();
        let mut stacked_missing = None;
        for part in Part::all(&self.config) {
            for stem in part.stems(self.layout) {
                known.insert(format!(
                    "{}{stem}{}",
                    self.prefix,
                    part.weight_suffix(self.layout)
                ));
                if part.has_bias() {
                    known.insert(format!("{}{stem}.bias", self.prefix));
                }
                if self.layout == Layout::Original && part.takes_lora() {
                    for (suffix, shape) in
                        [STACKED_A, STACKED_B]
                            .into_iter()
                            .zip(lora_shapes(part, &self.config, 4))
                    {
                        let name = format!("{}{stem}{suffix}", self.prefix);
                        if self.find(&format!("{stem}{suffix}")).is_none() && part != Part::Pooler {
                            let mut expected = vec![self.config.lora_adaptations.len()];
                            expected.extend(shape);
                            stacked_missing.get_or_insert((name.clone(), expected));
                        }
                        known.insert(name);
                    }
                }
            }
        }
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for file in &self.files {
            for name in file.tensors.keys() {
                if !seen.insert(name) {
                    let first = self
                        .files
                        .iter()
                        .find(|first| first.tensors.contains_key(name));
                    return Err(CheckpointError::Twice {
                        path: first.unwrap_or(file).path.clone(),
                        other: file.path.clone(),
                        name: name.clone(),
                    });
                }
                if !known.contains(name) && !is_ignorable(name) {
                    return Err(CheckpointError::Unexpected {
                        path: file.path.clone(),
                        name: name.clone(),
                        layout: self.layout.to_string(),
                    });
                }
            }
        }
        match stacked_missing {
            Some((name, expected)) => Err(CheckpointError::Missing {
                path: self.weights_path(),
                name,
                expected,
            }),
            None => Ok(()),
        }
    }

    /// Compares sizes in the configuration with the tensors that show them.
    fn check_config(&self) -> Result<(), CheckpointError> {
        let contradiction = |field, configured: usize, found: usize, name: String| {
            if configured == found {
                return Ok(());
            }
            let path = self.config_path.clone();
            Err(CheckpointError::Contradiction {
                path,
                field,
                configured,
                found,
                name,
            })
        };
        let axis = |part: Part, axis: usize| {
            let name = format!(
                "{}{}",
                part.stems(self.layout)[0],
                part.weight_suffix(self.layout)
            );
            let size = self
                .find(&name)
                .and_then(|tensor| tensor.shape().get(axis).copied());
            size.map(|size| (size, name))
        };
        let config = &self.config;
        for (field, configured, found) in [
            (
                "vocab_size",
                config.vocab_size,
                axis(Part::WordEmbeddings, 0),
            ),
            (
                "hidden_size",
                config.hidden_size,
                axis(Part::WordEmbeddings, 1),
            ),
            (
                "intermediate_size",
                config.intermediate_size,
                axis(Part::Fc1(0), 0),
            ),
        ] {
            if let Some((found, name)) = found {
                contradiction(field, configured, found, name)?;
            }
        }
        let layers = (0..)
            .take_while(|layer| axis(Part::OutProj(*layer), 0).is_some())
            .count();
        let last = Part::OutProj(layers.saturating_sub(1))
            .stems(self.layout)
            .remove(0);
        // Fewer layers show as a missing tensor only when the run breaks off in the middle.
        let beyond = (layers..layers + 2).all(|layer| axis(Part::Fc1(layer), 0).is_none());
        if layers > 0 && beyond {
            contradiction("num_hidden_layers", config.num_hidden_layers, layers, last)?;
        }
        if self.layout == Layout::Original {
            let name = format!("{}{STACKED_A}", Part::Wqkv(0).stems(self.layout)[0]);
            if let Some(tasks) = self
                .find(&name)
                .and_then(|tensor| tensor.shape().first().copied())
            {
                contradiction(
                    "lora_adaptations",
                    config.lora_adaptations.len(),
                    tasks,
                    name,
                )?;
            }
        }
        Ok(())
    }
}
