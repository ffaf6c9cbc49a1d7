//! Every way in which a checkpoint can be wrong gives one clear error that names file, tensor, found
//! and expected; no bytes make the loader panic.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code fails by panicking"
)]

mod support;

use std::path::Path;

use proptest::prelude::*;
use quintet_engine::{AdapterSource, Checkpoint, Embedder, LoadOptions};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;
use support::{testdata, threads};

/// Copies a reference checkpoint to a temporary directory.
fn copy(layout: &str) -> tempfile::TempDir {
    fn copy_into(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_into(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let directory = tempfile::tempdir().unwrap();
    copy_into(
        &testdata().join("checkpoints").join(layout),
        directory.path(),
    );
    directory
}

fn load(directory: &Path) -> Result<Embedder, String> {
    let adapters = Vec::new();
    let checkpoint = Checkpoint::open(directory).map_err(|error| error.to_string())?;
    let options = LoadOptions {
        threads: threads(1),
        adapters,
        ..LoadOptions::default()
    };
    Embedder::load(&checkpoint, &options).map_err(|error| error.to_string())
}

/// The error of a damaged copy, with the directory's own path taken out.
fn error_of(directory: &Path) -> String {
    match load(directory) {
        Ok(_) => panic!("the damaged checkpoint was loaded"),
        Err(error) => error.replace(&directory.display().to_string(), "DIR"),
    }
}

type Tensors = Vec<(String, (safetensors::Dtype, Vec<usize>, Vec<u8>))>;

/// The tensors of a safetensors file.
fn tensors_of(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    parsed
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name, tensor)
        })
        .collect()
}

/// Rewrites a safetensors file after `change`.
fn rewrite(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let mut tensors = tensors_of(path);
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn change_config(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

const FC1: &str = "roberta.encoder.layers.1.mlp.fc1.parametrizations.weight.original";

fn position(tensors: &Tensors, name: &str) -> usize {
    tensors.iter().position(|(other, _)| other == name).unwrap()
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let copy = copy("original");
    rewrite(&copy.path().join("model.safetensors"), |tensors| {
        tensors.remove(position(tensors, FC1));
    });
    assert_eq!(
        error_of(copy.path()),
        format!("`DIR/model.safetensors` lacks tensor `{FC1}`, expected shape [64, 128]")
    );
}

#[test]
fn a_missing_adapter_tensor_is_named() {
    let copy = copy("original");
    let name = "roberta.encoder.layers.0.mixer.Wqkv.parametrizations.weight.0.lora_B";
    rewrite(&copy.path().join("model.safetensors"), |tensors| {
        tensors.remove(position(tensors, name));
    });
    let error = error_of(copy.path());
    assert!(
        error.starts_with(&format!("`DIR/model.safetensors` lacks tensor `{name}`")),
        "{error}"
    );
}

#[test]
fn an_extra_tensor_is_named() {
    let copy = copy("original");
    rewrite(&copy.path().join("model.safetensors"), |tensors| {
        tensors.push((
            "lm_head.dense.weight".to_owned(),
            (safetensors::Dtype::F32, vec![1], vec![0; 4]),
        ));
    });
    assert_eq!(
        error_of(copy.path()),
        "`DIR/model.safetensors` has tensor `lm_head.dense.weight`, expected only those of the original \
         (stacked LoRA) layout"
    );
}

#[test]
fn buffers_that_nothing_needs_are_no_error() {
    let copy = copy("original");
    rewrite(&copy.path().join("model.safetensors"), |tensors| {
        let ids = (safetensors::Dtype::I64, vec![1], vec![0; 8]);
        tensors.push(("roberta.embeddings.position_ids".to_owned(), ids));
    });
    load(copy.path()).unwrap();
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let copy = copy("original");
    rewrite(&copy.path().join("model.safetensors"), |tensors| {
        let index = position(tensors, FC1);
        tensors[index].1.1 = vec![128, 64];
    });
    assert_eq!(
        error_of(copy.path()),
        format!(
            "tensor `{FC1}` in `DIR/model.safetensors` has shape [128, 64], expected [64, 128]"
        )
    );
}

#[test]
fn a_foreign_dtype_is_named() {
    let copy = copy("original");
    rewrite(&copy.path().join("model.safetensors"), |tensors| {
        let index = position(tensors, FC1);
        let (dtype, _, data) = &mut tensors[index].1;
        *dtype = safetensors::Dtype::I16;
        data.truncate(data.len());
    });
    assert_eq!(
        error_of(copy.path()),
        format!(
            "tensor `{FC1}` in `DIR/model.safetensors` is I16, expected f32, f16, bf16 or q8_0"
        )
    );
}

#[test]
fn a_nan_or_an_infinity_is_named_with_its_place() {
    for (bits, shown) in [(0x7fc0u16, "NaN"), (0xff80, "-inf")] {
        let copy = copy("original");
        rewrite(&copy.path().join("model.safetensors"), |tensors| {
            let index = position(tensors, FC1);
            tensors[index].1.2[200..202].copy_from_slice(&bits.to_le_bytes());
        });
        assert_eq!(
            error_of(copy.path()),
            format!(
                "tensor `{FC1}` in `DIR/model.safetensors` holds {shown} at element 100, expected finite \
                 numbers"
            )
        );
    }
}

#[test]
fn a_nan_in_the_word_table_or_an_adapter_is_found() {
    for name in [
        "roberta.embeddings.word_embeddings.parametrizations.weight.original",
        "roberta.embeddings.word_embeddings.parametrizations.weight.0.lora_A",
        "roberta.encoder.layers.1.mlp.fc2.parametrizations.weight.0.lora_B",
    ] {
        let copy = copy("original");
        rewrite(&copy.path().join("model.safetensors"), |tensors| {
            let index = position(tensors, name);
            let end = tensors[index].1.2.len();
            tensors[index].1.2[end - 2..].copy_from_slice(&0x7fc0u16.to_le_bytes());
        });
        let error = error_of(copy.path());
        assert!(
            error.contains(name) && error.contains("holds NaN"),
            "{error}"
        );
    }
}

#[test]
fn a_truncated_file_is_named_with_both_sizes_and_the_tensor() {
    let copy = copy("original");
    let path = copy.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = error_of(copy.path());
    let start = format!(
        "`DIR/model.safetensors` has {} bytes, its header describes {}: tensor `roberta.",
        bytes.len() / 2,
        bytes.len()
    );
    assert!(error.starts_with(&start), "{error}");
    std::fs::write(&path, &bytes[..40]).unwrap();
    assert!(error_of(copy.path()).starts_with("`DIR/model.safetensors` has 40 bytes"));
}

#[test]
fn files_of_another_kind_are_recognised() {
    let cases: [(&[u8], &str); 6] = [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "git-LFS pointer",
        ),
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"{\"error\":\"Repository not found\"}", "JSON error"),
        (b"PK\x03\x04 and so on, a zip", "pickle"),
        (b"", "empty file"),
        (
            b"Something else entirely, longer than eight bytes",
            "without a safetensors header",
        ),
    ];
    for (bytes, expected) in cases {
        let copy = copy("original");
        std::fs::write(copy.path().join("model.safetensors"), bytes).unwrap();
        let error = error_of(copy.path());
        assert!(
            error.starts_with("`DIR/model.safetensors` is not a weights file but"),
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_config_that_contradicts_the_tensors_is_named_by_field() {
    for (field, value, says) in [
        ("vocab_size", 321, "vocab_size 321, the tensors say 320"),
        (
            "num_hidden_layers",
            3,
            "num_hidden_layers 3, the tensors say 2",
        ),
        (
            "num_hidden_layers",
            1,
            "num_hidden_layers 1, the tensors say 2",
        ),
        (
            "intermediate_size",
            96,
            "intermediate_size 96, the tensors say 64",
        ),
        ("hidden_size", 192, "hidden_size 192, the tensors say 128"),
    ] {
        let copy = copy("original");
        change_config(copy.path(), |config| {
            config[field] = value.into();
            config["matryoshka_dimensions"] = Value::Null;
        });
        let error = error_of(copy.path());
        assert!(
            error.starts_with("`DIR/config.json` says") && error.contains(says),
            "{error}"
        );
    }
    let copy = copy("original");
    change_config(copy.path(), |config| {
        config["lora_adaptations"].as_array_mut().unwrap().pop();
    });
    assert!(error_of(copy.path()).contains("lora_adaptations 4, the tensors say 5"));
}

#[test]
fn missing_and_foreign_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    assert!(error_of(empty.path()).starts_with("`DIR` holds no model"));
    assert!(error_of(&empty.path().join("absent")).starts_with("cannot read"));
    let without_config = copy("original");
    std::fs::remove_file(without_config.path().join("config.json")).unwrap();
    assert_eq!(
        error_of(without_config.path()),
        "cannot read `DIR/config.json`"
    );
    let foreign = copy("base-only");
    rewrite(&foreign.path().join("model.safetensors"), |tensors| {
        for (name, _) in tensors.iter_mut() {
            *name = format!("bert.{name}");
        }
    });
    let error = error_of(foreign.path());
    assert!(
        error.contains("named like no known layout") && error.contains("`bert."),
        "{error}"
    );
    let two = copy("gguf-f16");
    std::fs::copy(two.path().join("model.gguf"), two.path().join("other.gguf")).unwrap();
    assert_eq!(
        error_of(two.path()),
        "`DIR` holds several base models: model.gguf, other.gguf"
    );
}

#[test]
fn a_sharded_checkpoint_is_one_model_and_no_tensor_may_stand_twice() {
    let copy = copy("original");
    let whole = copy.path().join("model.safetensors");
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let mut weight_map = serde_json::Map::new();
    for (half, shard) in shards.iter().enumerate() {
        let path = copy.path().join(shard);
        std::fs::copy(&whole, &path).unwrap();
        rewrite(&path, |tensors| {
            tensors.sort();
            let middle = tensors.len() / 2;
            *tensors = if half == 0 {
                tensors[..middle].to_vec()
            } else {
                tensors[middle..].to_vec()
            };
            for (name, _) in tensors {
                weight_map.insert(name.clone(), (*shard).into());
            }
        });
    }
    std::fs::remove_file(&whole).unwrap();
    let index = serde_json::json!({"weight_map": weight_map});
    let index_path = copy.path().join("model.safetensors.index.json");
    std::fs::write(&index_path, index.to_string()).unwrap();
    assert_eq!(load(copy.path()).unwrap().tasks().count(), 5);
    let twice = tensors_of(&copy.path().join(shards[0])).remove(0);
    rewrite(&copy.path().join(shards[1]), |tensors| {
        tensors.push(twice.clone())
    });
    assert_eq!(
        error_of(copy.path()),
        format!(
            "tensor `{}` stands in `DIR/{}` and in `DIR/{}`, expected it once",
            twice.0, shards[0], shards[1]
        )
    );
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let copy = copy("hf");
    let folder = copy.path().join("separation");
    let config = |field: &str, value: Value| {
        let path = folder.join("adapter_config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json[field] = value;
        std::fs::write(path, json.to_string()).unwrap();
    };
    config("use_dora", true.into());
    assert!(
        error_of(copy.path()).starts_with(
            "adapter `separation`: `DIR/separation/adapter_config.json` says use_dora"
        )
    );
    config("use_dora", false.into());
    config("r", 8.into());
    assert!(error_of(copy.path()).contains("has shape [4,"));
    config("r", 4.into());
    rewrite(&folder.join("adapter_model.safetensors"), |tensors| {
        tensors[0].0 = "base_model.model.layers.9.self_attn.q_proj.lora_A.weight".to_owned();
    });
    assert!(error_of(copy.path()).contains("layers.9.self_attn.q_proj.lora_A.weight"));
    let custom = testdata().join("checkpoints/custom-adapter");
    let adapters = vec![AdapterSource::custom("separation", &custom).unwrap()];
    let options = LoadOptions {
        threads: threads(1),
        adapters,
        ..LoadOptions::default()
    };
    let error = Embedder::load(&support::checkpoint("hf"), &options)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("adapter `separation` is given twice"),
        "{error}"
    );
    let stacked = testdata().join("checkpoints/original/model.safetensors");
    let error = AdapterSource::custom("nonsense", &stacked)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("stacks 5 adapters and none is named `nonsense`"),
        "{error}"
    );
}

/// Changes bytes of a file and opens it: any answer will do but a panic.
fn survives(layout: &str, file: &str, changes: &[(prop::sample::Index, u8)], keep: f64) {
    let copy = copy(layout);
    let path = copy.path().join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    // The header decides how the rest is read, so most changes go there.
    let header = bytes.len().min(16 * 1024);
    for (at, value) in changes {
        let at = at.index(header);
        bytes[at] = *value;
    }
    bytes.truncate((bytes.len() as f64 * keep) as usize);
    std::fs::write(&path, &bytes).unwrap();
    let _ = load(copy.path());
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
}

fn kept() -> impl Strategy<Value = f64> {
    prop_oneof![Just(1.0), 0.0f64..1.0]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_safetensors_file_makes_the_loader_panic(changes in changes(), keep in kept()) {
        survives("base-only", "model.safetensors", &changes, keep);
    }

    #[test]
    fn no_gguf_file_makes_the_loader_panic(changes in changes(), keep in kept()) {
        survives("gguf-f16", "model.gguf", &changes, keep);
    }

    #[test]
    fn no_adapter_or_config_makes_the_loader_panic(
        changes in changes(),
        keep in kept(),
        file in prop::sample::select(vec![
            "config.json",
            "separation/adapter_config.json",
            "separation/adapter_model.safetensors",
        ]),
    ) {
        survives("hf", file, &changes, keep);
    }

    #[test]
    fn no_tokenizer_file_makes_the_loader_panic(changes in changes(), keep in kept()) {
        survives("original", "tokenizer.json", &changes, keep);
    }

    #[test]
    fn no_lora_gguf_makes_the_loader_panic(changes in changes(), keep in kept()) {
        survives("gguf", "lora-separation-model.gguf", &changes, keep);
    }
}
