//! The engine against transformers' own model: every layout, every task and none, 1 to 8192 tokens.
//!
//! The goldens are made by `testdata/make_goldens.py` in f32; `testdata/README.md` lists what each
//! mistake would cost, all of it far above the tolerances here.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code fails by panicking"
)]

mod support;

use quintet_engine::late_chunking::{ChunkPooling, DocumentTokens, place_spans};
use quintet_engine::{
    AdapterSource, BuiltInModel, Checkpoint, Content, EmbedOptions, Embedder, Input, Isa,
    LoadOptions, Truncate,
};
use support::{Goldens, TASKS, checkpoint, load, load_with, task, testdata, worst};

/// Normalised vectors: the issue asks for 1e-5; f32 noise between two right implementations is 4e-7.
const VECTOR_TOLERANCE: f32 = 2e-6;

/// Hidden states reach 10, where one f32 step is 1e-6; the reference's own f32 run is 6e-6 away from
/// its f64 run.
const HIDDEN_TOLERANCE: f32 = 2e-5;

/// Layouts differ in how weights are read, which short sequences show as well as long ones.
const SEQUENCES: [&str; 10] = [
    "len1", "len2", "len3", "len7", "len20", "len33", "len64", "len130", "len300", "len513",
];

/// The full context, where the rotary table and the sums end.
const LONGEST: &str = "len8192";

/// Embeds `inputs` of (sequence, golden task) in one call, so that all share batches.
fn embed(
    embedder: &Embedder,
    goldens: &Goldens,
    inputs: &[(&str, &str)],
    options: &EmbedOptions,
) -> Vec<Vec<f32>> {
    let ids: Vec<Vec<u32>> = inputs
        .iter()
        .map(|(name, _)| goldens.integers(&format!("seq/{name}/input_ids")))
        .collect();
    let inputs: Vec<Input<'_>> = ids
        .iter()
        .zip(inputs)
        .map(|(ids, (_, golden))| Input {
            content: Content::TokenIds(ids),
            task: task(embedder, golden),
        })
        .collect();
    embedder
        .embed(&inputs, options)
        .unwrap()
        .into_iter()
        .map(|embedded| embedded.embedding)
        .collect()
}

/// Compares `sequences` under `tasks`, in one mixed call.
fn compare_vectors(
    embedder: &Embedder,
    goldens: &Goldens,
    sequences: &[&str],
    tasks: &[&str],
    label: &str,
) {
    let cases: Vec<(&str, &str)> = sequences
        .iter()
        .flat_map(|name| tasks.iter().map(move |task| (*name, *task)))
        .filter(|(name, task)| goldens.has(&format!("seq/{name}/{task}/normalized")))
        .collect();
    assert!(
        cases.len() >= tasks.len(),
        "{label}: the goldens hold {} cases",
        cases.len()
    );
    let mut by_task = std::collections::BTreeMap::<&str, f32>::new();
    let vectors = embed(embedder, goldens, &cases, &EmbedOptions::default());
    for ((name, task), vector) in cases.iter().zip(vectors) {
        let difference = worst(
            &vector,
            &goldens.floats(&format!("seq/{name}/{task}/normalized")),
        );
        assert!(
            difference <= VECTOR_TOLERANCE,
            "{label}, {name}, {task}: components differ by {difference:e}"
        );
        let entry = by_task.entry(task).or_default();
        *entry = entry.max(difference);
    }
    println!("{label}: worst difference by task {by_task:?}");
}

fn compare_layout(layout: &str, tasks: &[&str]) {
    let goldens = Goldens::read("sequences.safetensors");
    compare_vectors(&load(layout), &goldens, &SEQUENCES, tasks, layout);
}

#[test]
fn the_original_layout_gives_the_references_vectors() {
    compare_layout("original", &TASKS);
}

#[test]
fn texts_of_the_full_context_give_the_references_vectors() {
    let embedder = load_with("original", 2, Isa::best(), Vec::new());
    let goldens = Goldens::read("sequences.safetensors");
    compare_vectors(&embedder, &goldens, &[LONGEST], &TASKS, "original");
}

#[test]
fn an_f16_file_gives_the_same_vectors_as_bf16() {
    compare_layout("original-f16", &TASKS);
}

#[test]
fn the_hf_layout_and_its_resaved_form_give_the_references_vectors() {
    compare_layout("hf", &TASKS);
    compare_layout("hf-resaved", &TASKS);
}

#[test]
fn layouts_without_adapters_run_raw_and_refuse_a_task() {
    for layout in ["hf-unfused", "base-only"] {
        compare_layout(layout, &["none"]);
        let error = load(layout).task("retrieval.query").unwrap_err();
        assert!(
            error.hint().is_some_and(|hint| hint.contains("raw")),
            "{layout}: {error}"
        );
    }
}

#[test]
fn gguf_gives_the_references_vectors() {
    compare_layout("gguf", &TASKS);
    compare_layout("gguf-f16", &["none"]);
}

#[test]
fn gguf_q8_0_gives_the_vectors_of_its_dequantised_weights() {
    let adapters = TASKS[1..]
        .iter()
        .map(|task| {
            let path = testdata().join(format!("checkpoints/gguf/lora-{task}-model.gguf"));
            AdapterSource::custom(task, &path).unwrap()
        })
        .collect();
    let embedder = load_with("gguf-q8_0", 1, Isa::best(), adapters);
    compare_vectors(
        &embedder,
        &Goldens::read("gguf_q8_0.safetensors"),
        &SEQUENCES,
        &TASKS,
        "gguf-q8_0",
    );
}

#[test]
fn a_custom_peft_adapter_runs_beside_the_five() {
    let path = testdata().join("checkpoints/custom-adapter");
    let custom = AdapterSource::custom("custom", &path).unwrap();
    let embedder = load_with("original", 1, Isa::best(), vec![custom]);
    assert_eq!(embedder.tasks().count(), 6);
    compare_vectors(
        &embedder,
        &Goldens::read("custom_adapter.safetensors"),
        &SEQUENCES,
        &["custom"],
        "custom",
    );
    compare_vectors(
        &embedder,
        &Goldens::read("sequences.safetensors"),
        &SEQUENCES,
        &TASKS,
        "beside custom",
    );
}

#[test]
fn a_stacked_file_serves_as_a_custom_adapter() {
    let file = testdata().join("checkpoints/original/model.safetensors");
    let path = format!("{}#separation", file.display());
    let custom = AdapterSource::custom("mine", path.as_ref()).unwrap();
    let embedder = load_with("base-only", 1, Isa::best(), vec![custom]);
    let goldens = Goldens::read("sequences.safetensors");
    let ids = goldens.integers("seq/len33/input_ids");
    let input = Input {
        content: Content::TokenIds(&ids),
        task: embedder.task("mine").unwrap(),
    };
    let embedded = embedder.embed(&[input], &EmbedOptions::default()).unwrap();
    let golden = goldens.floats("seq/len33/separation/normalized");
    assert!(worst(&embedded[0].embedding, &golden) <= VECTOR_TOLERANCE);
}

#[test]
fn hidden_states_are_the_references() {
    let goldens = Goldens::read("sequences.safetensors");
    let embedder = load("original");
    let mut overall: f32 = 0.0;
    for name in SEQUENCES.into_iter().chain([LONGEST]) {
        let ids = goldens.integers(&format!("seq/{name}/input_ids"));
        for golden in if name == LONGEST {
            &TASKS[..1]
        } else {
            &TASKS[..]
        } {
            let states = embedder
                .hidden_states(&ids, task(&embedder, golden))
                .unwrap();
            let full = format!("seq/{name}/{golden}/last_hidden_state");
            let (rows, expected) = if goldens.has(&full) {
                ((0..ids.len()).collect(), goldens.floats(&full))
            } else {
                let rows = goldens.integers(&format!("seq/{name}/hidden_rows"));
                let rows: Vec<usize> = rows.into_iter().map(|row| row as usize).collect();
                (rows, goldens.floats(&format!("{full}_rows")))
            };
            let found: Vec<f32> = rows.iter().flat_map(|&row| states[row].clone()).collect();
            let difference = worst(&found, &expected);
            assert!(
                difference <= HIDDEN_TOLERANCE,
                "{name}, {golden}: {difference:e}"
            );
            overall = overall.max(difference);
        }
    }
    println!("hidden states: worst difference {overall:e}");
}

#[test]
fn every_instruction_set_gives_the_references_vectors() {
    for &isa in Isa::ALL {
        if !isa.is_available() {
            eprintln!("skipped: this processor has no {isa}");
            continue;
        }
        let goldens = Goldens::read("sequences.safetensors");
        let embedder = load_with("original", 2, isa, Vec::new());
        let cases: Vec<(&str, &str)> = ["len3", "len64", "len513"]
            .iter()
            .flat_map(|name| TASKS.map(|task| (*name, task)))
            .collect();
        let vectors = embed(&embedder, &goldens, &cases, &EmbedOptions::default());
        for ((name, task), vector) in cases.iter().zip(vectors) {
            let golden = goldens.floats(&format!("seq/{name}/{task}/normalized"));
            assert!(
                worst(&vector, &golden) <= VECTOR_TOLERANCE,
                "{isa}, {name}, {task}"
            );
        }
    }
}

#[test]
fn matryoshka_cuts_and_unnormalised_rows_are_the_references() {
    let goldens = Goldens::read("sequences.safetensors");
    let embedder = load("original");
    for golden in TASKS {
        for name in ["len3", "len20", "len130"] {
            for size in [1, 16, 32, 50, 64, 128] {
                let dimensions = Some(embedder.dimensions(size).unwrap());
                let options = EmbedOptions {
                    dimensions,
                    ..EmbedOptions::default()
                };
                let vector = embed(&embedder, &goldens, &[(name, golden)], &options).remove(0);
                let expected = goldens.floats(&format!("seq/{name}/{golden}/truncated_{size}"));
                assert!(
                    worst(&vector, &expected) <= 2.0 * VECTOR_TOLERANCE,
                    "{name}, {golden}, {size}"
                );
            }
        }
        let options = EmbedOptions {
            normalize: false,
            ..EmbedOptions::default()
        };
        let vector = embed(&embedder, &goldens, &[("len33", golden)], &options).remove(0);
        let expected = goldens.floats(&format!("seq/len33/{golden}/pooled"));
        assert!(worst(&vector, &expected) <= HIDDEN_TOLERANCE, "{golden}");
    }
    assert!(embedder.dimensions(64).unwrap().is_trained());
    assert!(!embedder.dimensions(50).unwrap().is_trained());
    assert!(embedder.dimensions(0).is_err() && embedder.dimensions(129).is_err());
}

#[test]
fn texts_take_their_instruction_and_give_the_references_vectors() {
    let text = std::fs::read_to_string(testdata().join("goldens/text.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let goldens = Goldens::read("text.safetensors");
    for layout in ["original", "gguf"] {
        let embedder = load(layout);
        let mut compared = 0;
        for (index, item) in parsed["items"].as_array().unwrap().iter().enumerate() {
            let text = item["text"].as_str().unwrap();
            for golden in TASKS {
                let task = task(&embedder, golden);
                let input = Input {
                    content: Content::Text(text),
                    task,
                };
                let embedded = embedder
                    .embed(&[input], &EmbedOptions::default())
                    .unwrap()
                    .remove(0);
                let prefixed = format!("{}{text}", embedder.instruction(task));
                let ids = embedder.tokenizer().unwrap().encode(&prefixed).unwrap();
                assert_eq!(
                    serde_json::json!(ids),
                    item["ids"][golden],
                    "{layout}, {text:?}, {golden}"
                );
                assert_eq!(embedded.tokens, ids.len());
                let name = format!("text/{index}/{golden}/normalized");
                if goldens.has(&name) {
                    assert!(worst(&embedded.embedding, &goldens.floats(&name)) <= VECTOR_TOLERANCE);
                    compared += 1;
                }
            }
        }
        assert!(compared > 10, "{layout}: {compared} vectors compared");
    }
}

#[test]
fn the_resaved_tokenizer_gives_its_own_ids() {
    let text = std::fs::read_to_string(testdata().join("goldens/text.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let embedder = load("hf-resaved");
    for item in parsed["items"].as_array().unwrap() {
        let ids = embedder
            .tokenizer()
            .unwrap()
            .encode(item["text"].as_str().unwrap())
            .unwrap();
        assert_eq!(serde_json::json!(ids), item["resaved"], "{}", item["text"]);
    }
}

#[test]
fn late_chunking_pools_as_the_repository_does() {
    let text = std::fs::read_to_string(testdata().join("goldens/goldens.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let goldens = Goldens::read("late.safetensors");
    let embedder = load("original");
    for (name, case) in cases["late"].as_object().unwrap() {
        let number = |key: &str| case[key].as_u64().map(|value| value as usize);
        let lengths: Vec<usize> = case["lengths"]
            .as_array()
            .unwrap()
            .iter()
            .map(|len| len.as_u64().unwrap() as usize)
            .collect();
        let text_len = lengths.iter().sum();
        let offset = 1 + number("instruction_tokens").unwrap();
        let mut spans = Vec::new();
        for len in lengths {
            let start = spans
                .last()
                .map_or(0, |last: &std::ops::Range<usize>| last.end);
            spans.push(start..start + len);
        }
        let mut token_ids = goldens.integers(&format!("late/{name}/input_ids"));
        // Clipped cases give the row after the cut: put a tail back for the cut to remove.
        if let Some(&last) = token_ids.last() {
            let at = token_ids.len() - 1;
            let missing = offset + text_len + 1 - token_ids.len();
            token_ids.splice(at.., std::iter::repeat_n(5, missing).chain([last]));
        }
        for (pooling, golden_pooling) in [
            (ChunkPooling::WithSpecials, "repo"),
            (ChunkPooling::TextOnly, "text_only"),
        ] {
            let placed = place_spans(&spans, text_len, offset, pooling).unwrap();
            let mut document = DocumentTokens {
                token_ids: token_ids.clone(),
                spans: placed.into_iter().map(Some).collect(),
                truncated: false,
            };
            document.cut(number("max_tokens").unwrap_or(usize::MAX));
            let context = number("window").unwrap_or(8192);
            for golden_task in ["none", "retrieval.passage"] {
                let task = task(&embedder, golden_task);
                let windows = document.windows(context, number("overlap").unwrap_or(0), task);
                let embedded = embedder
                    .embed_windows(&document, &windows, &EmbedOptions::default())
                    .unwrap();
                let golden = format!("late/{name}/{golden_task}/{golden_pooling}_normalized");
                let chunks: Vec<f32> = embedded.chunks.into_iter().flatten().flatten().collect();
                let difference = worst(&chunks, &goldens.floats(&golden));
                assert!(difference <= VECTOR_TOLERANCE, "{golden}: {difference:e}");
            }
        }
    }
}

#[test]
fn too_long_texts_are_refused_or_cut_with_the_end_kept() {
    let embedder = load("original");
    let config_max = checkpoint("original").config.max_tokens;
    let mut ids = vec![7; config_max + 100];
    *ids.last_mut().unwrap() = 2;
    let input = Input {
        content: Content::TokenIds(&ids),
        task: quintet_engine::Task::RAW,
    };
    let error = embedder
        .embed(&[input], &EmbedOptions::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("input 0 has {} tokens, expected at most 8192", ids.len())
    );
    let options = EmbedOptions {
        truncate: Truncate::End,
        ..EmbedOptions::default()
    };
    let cut = embedder.embed(&[input], &options).unwrap().remove(0);
    assert!(cut.truncated && cut.tokens == config_max);
    let mut by_hand = vec![7; config_max];
    *by_hand.last_mut().unwrap() = 2;
    let by_hand = Input {
        content: Content::TokenIds(&by_hand),
        ..input
    };
    let whole = embedder
        .embed(&[by_hand], &EmbedOptions::default())
        .unwrap()
        .remove(0);
    assert_eq!(whole.embedding, cut.embedding);
}

#[test]
fn a_built_in_model_gives_the_vectors_of_its_files() {
    let read = |file: &str| {
        let path = testdata().join("checkpoints/original").join(file);
        &*std::fs::read(path).unwrap().leak()
    };
    let text = |file: &str| str::from_utf8(read(file)).unwrap();
    let model = BuiltInModel {
        name: "tiny",
        config_json: text("config.json"),
        model_safetensors: read("model.safetensors"),
        tokenizer_json: text("tokenizer.json"),
    };
    let checkpoint = Checkpoint::built_in(&model).unwrap();
    let embedder = Embedder::load(&checkpoint, &LoadOptions::default()).unwrap();
    let goldens = Goldens::read("sequences.safetensors");
    compare_vectors(&embedder, &goldens, &["len33"], &TASKS, "built in");
    assert!(embedder.tokenizer().is_some());
}
