//! The reference's answers in a safetensors file, as `testdata/make_goldens.py` names them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use quintet_engine::embedding::finish;
use quintet_engine::{Content, EmbedOptions, Embedder, Input, RAW, Task};
use safetensors::{Dtype, SafeTensors};

use super::{Check, Findings};
use crate::failure::UserError;

/// Largest difference of a component of a vector of length 1 (f32 noise is near 3e-7, the smallest
/// mistake that the goldens were tried on makes 1e-4).
const VECTOR_TOLERANCE: f32 = 1e-5;
/// The same for hidden states and their mean, whose components reach about 10 (noise 1e-5, the
/// smallest mistake 2e-3).
const HIDDEN_TOLERANCE: f32 = 1e-4;

/// What the file calls the base model.
const NONE: &str = "none";

/// Sequences by name.
pub(super) struct Goldens {
    sequences: BTreeMap<String, Sequence>,
}

#[derive(Default)]
struct Sequence {
    token_ids: Vec<u32>,
    /// Rows that `last_hidden_state_rows` holds.
    rows: Vec<usize>,
    /// Task, then kind, then numbers.
    answers: BTreeMap<String, BTreeMap<String, Vec<f32>>>,
}

impl Goldens {
    /// Reads the file; tensors that are not named `seq/…` are left alone.
    ///
    /// # Errors
    /// When it cannot be read or has no sequences.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let wrong = |what: &str| UserError::new(format!("`{}` {what}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| {
            anyhow::Error::from(error).context(format!("cannot read `{}`", path.display()))
        })?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| anyhow::Error::from(error).context(wrong("is no safetensors file")))?;
        let mut sequences: BTreeMap<String, Sequence> = BTreeMap::new();
        for (name, tensor) in tensors.iter() {
            let parts: Vec<&str> = name.split('/').collect();
            let ["seq", sequence, rest @ ..] = &parts[..] else {
                continue;
            };
            let sequence = sequences.entry((*sequence).to_owned()).or_default();
            match rest {
                ["input_ids"] => {
                    let ids = integers(tensor.dtype(), tensor.data());
                    let ids = ids.and_then(|ids| ids.map(|id| u32::try_from(id).ok()).collect());
                    sequence.token_ids =
                        ids.ok_or_else(|| wrong(&format!("has no int64 ids in `{name}`")))?;
                }
                ["hidden_rows"] => {
                    let rows = integers(tensor.dtype(), tensor.data());
                    let rows =
                        rows.and_then(|rows| rows.map(|row| usize::try_from(row).ok()).collect());
                    sequence.rows =
                        rows.ok_or_else(|| wrong(&format!("has no int64 rows in `{name}`")))?;
                }
                [task, kind] => {
                    let values = floats(tensor.dtype(), tensor.data())
                        .ok_or_else(|| wrong(&format!("has no float32 values in `{name}`")))?;
                    let answers = sequence.answers.entry((*task).to_owned()).or_default();
                    answers.insert((*kind).to_owned(), values);
                }
                _ => {}
            }
        }
        sequences.retain(|_, sequence| !sequence.token_ids.is_empty());
        if sequences.is_empty() {
            return Err(wrong("holds no goldens: no tensor `seq/<name>/input_ids`")
                .hint("testdata/make_goldens.py lists the names")
                .into());
        }
        Ok(Self { sequences })
    }

    /// Compares everything that the model has a task for, the base model first.
    pub(super) fn check(&self, embedder: &Embedder) -> anyhow::Result<Findings> {
        let mut findings = Findings::default();
        let mut left: BTreeSet<&str> = self
            .sequences
            .values()
            .flat_map(|sequence| sequence.answers.keys().map(String::as_str))
            .collect();
        for name in std::iter::once(RAW).chain(embedder.tasks()) {
            let key = if name == RAW { NONE } else { name };
            if left.remove(key) {
                self.check_task(name, key, embedder, &mut findings.checks)?;
            }
        }
        let note = |name| format!("the model has no task `{name}`: left out");
        findings.notes.extend(left.into_iter().map(note));
        Ok(findings)
    }

    /// `name` is the model's, `key` the file's.
    fn check_task(
        &self,
        name: &str,
        key: &str,
        embedder: &Embedder,
        checks: &mut Vec<Check>,
    ) -> anyhow::Result<()> {
        let task = embedder.task(name)?;
        let check = |what, tolerance| Check::new(name, what, tolerance, std::iter::empty());
        let mut vectors = check("vectors", VECTOR_TOLERANCE);
        let mut hidden = check("hidden states and means", HIDDEN_TOLERANCE);
        for sequence in self.sequences.values() {
            let Some(answers) = sequence.answers.get(key) else {
                continue;
            };
            let pooled = sequence.pooled(task, embedder)?;
            for (kind, expected) in answers {
                let (check, found) = match Kind::parse(kind) {
                    None => continue,
                    Some(Kind::Pooled) => (&mut hidden, pooled.clone()),
                    Some(Kind::Normalized) => {
                        (&mut vectors, finish(pooled.clone(), pooled.len(), true))
                    }
                    Some(Kind::Truncated(size)) => {
                        (&mut vectors, finish(pooled.clone(), size, true))
                    }
                    Some(Kind::Hidden) => (
                        &mut hidden,
                        embedder.hidden_states(&sequence.token_ids, task)?.concat(),
                    ),
                    Some(Kind::HiddenRows) => {
                        let states = embedder.hidden_states(&sequence.token_ids, task)?;
                        let rows = sequence.rows.iter().filter_map(|&row| states.get(row));
                        (&mut hidden, rows.flatten().copied().collect())
                    }
                };
                let mut found = found.into_iter();
                for &expected in expected {
                    // A number that is not there is a miss.
                    check.add(found.next().unwrap_or(f32::NAN), expected);
                }
            }
        }
        checks.extend(
            [vectors, hidden]
                .into_iter()
                .filter(|check| check.values > 0),
        );
        Ok(())
    }
}

/// What a golden tensor holds.
#[derive(Clone, Copy)]
enum Kind {
    Normalized,
    Truncated(usize),
    Pooled,
    Hidden,
    HiddenRows,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "normalized" => Some(Self::Normalized),
            "pooled" => Some(Self::Pooled),
            "last_hidden_state" => Some(Self::Hidden),
            "last_hidden_state_rows" => Some(Self::HiddenRows),
            _ => text
                .strip_prefix("truncated_")?
                .parse()
                .ok()
                .map(Self::Truncated),
        }
    }
}

impl Sequence {
    fn pooled(&self, task: Task, embedder: &Embedder) -> anyhow::Result<Vec<f32>> {
        let input = Input {
            content: Content::TokenIds(&self.token_ids),
            task,
        };
        let options = EmbedOptions {
            normalize: false,
            ..EmbedOptions::default()
        };
        Ok(embedder.embed(&[input], &options)?.remove(0).embedding)
    }
}

fn integers(dtype: Dtype, bytes: &[u8]) -> Option<impl Iterator<Item = i64>> {
    let (values, _) = bytes.as_chunks::<8>();
    (dtype == Dtype::I64).then(|| values.iter().map(|&value| i64::from_le_bytes(value)))
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let (values, _) = bytes.as_chunks::<4>();
    (dtype == Dtype::F32).then(|| {
        values
            .iter()
            .map(|&value| f32::from_le_bytes(value))
            .collect()
    })
}
