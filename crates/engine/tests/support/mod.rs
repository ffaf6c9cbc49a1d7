//! What the integration tests share: the reference checkpoints of `testdata/` and their goldens.
#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code fails by panicking"
)]

use std::num::NonZeroUsize;
use std::path::PathBuf;

use quintet_engine::{AdapterSource, Checkpoint, Embedder, Isa, LoadOptions, Task};
use safetensors::SafeTensors;

/// Names of the goldens' tasks; `none` is `raw` here.
pub(crate) const TASKS: [&str; 6] = [
    "none",
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
];

pub(crate) fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

pub(crate) fn checkpoint(layout: &str) -> Checkpoint {
    Checkpoint::open(&testdata().join("checkpoints").join(layout)).unwrap()
}

pub(crate) fn threads(threads: usize) -> NonZeroUsize {
    NonZeroUsize::new(threads).unwrap()
}

/// Loads a reference checkpoint with one thread and the best instruction set.
pub(crate) fn load(layout: &str) -> Embedder {
    load_with(layout, 1, Isa::best(), Vec::new())
}

pub(crate) fn load_with(
    layout: &str,
    count: usize,
    isa: Isa,
    adapters: Vec<AdapterSource>,
) -> Embedder {
    let options = LoadOptions {
        threads: threads(count),
        isa,
        adapters,
        ..LoadOptions::default()
    };
    Embedder::load(&checkpoint(layout), &options).unwrap()
}

pub(crate) fn task(embedder: &Embedder, golden_name: &str) -> Task {
    embedder
        .task(if golden_name == "none" {
            "raw"
        } else {
            golden_name
        })
        .unwrap()
}

/// A golden file in memory.
pub(crate) struct Goldens {
    bytes: Vec<u8>,
}

impl Goldens {
    pub(crate) fn read(name: &str) -> Self {
        let path = testdata().join("goldens").join(name);
        Self {
            bytes: std::fs::read(path).unwrap(),
        }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors()
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let data = tensors
            .tensor(name)
            .unwrap_or_else(|_| panic!("no golden {name}"))
            .data();
        data.as_chunks::<4>()
            .0
            .iter()
            .map(|raw| f32::from_le_bytes(*raw))
            .collect()
    }

    pub(crate) fn integers(&self, name: &str) -> Vec<u32> {
        let tensors = self.tensors();
        let data = tensors
            .tensor(name)
            .unwrap_or_else(|_| panic!("no golden {name}"))
            .data();
        let chunks = data.as_chunks::<8>().0.iter();
        chunks
            .map(|raw| u32::try_from(i64::from_le_bytes(*raw)).unwrap())
            .collect()
    }
}

/// Largest difference of two rows, component by component.
pub(crate) fn worst(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
        .fold(0.0, f32::max)
}

/// The folder of shared test data (the real tokenizer, real texts), where there is one: beside the
/// repository, or where `QUINTET_SHARED_DIR` says. Says on stderr that `test` is skipped otherwise.
pub(crate) fn shared(test: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = std::env::var_os("QUINTET_SHARED_DIR").map_or(beside, PathBuf::from);
    if path.join("tokenizer/tokenizer.json").is_file() {
        return Some(path);
    }
    eprintln!(
        "skipped {test}: no tokenizer/tokenizer.json in `{}`",
        path.display()
    );
    None
}
