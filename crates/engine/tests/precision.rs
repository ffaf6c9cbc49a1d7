//! Balanced and fast beside exact, on the reference checkpoint: how far they are, and that the same
//! text still gives the same bits; and the packed file, which changes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code fails by panicking"
)]

mod support;

use std::path::Path;

use quintet_engine::calibration::{distance, round, sensitivities};
use quintet_engine::{
    Content, EmbedOptions, Embedder, Input, Isa, LoadError, LoadOptions, PackFileError, Precision,
};
use support::{TASKS, checkpoint, task, threads};

/// The largest `1 - cosine` to `exact`. The checkpoint is tiny and random: harsher than the model.
const BUDGETS: [(Precision, f64); 2] = [(Precision::Balanced, 1e-5), (Precision::Fast, 2e-2)];

fn load(
    precision: Precision,
    isa: Isa,
    count: usize,
    packed: Option<&Path>,
) -> Result<Embedder, LoadError> {
    let options = LoadOptions {
        threads: threads(count),
        isa,
        precision,
        packed,
        ..LoadOptions::default()
    };
    Embedder::load(&checkpoint("original"), &options)
}

fn texts() -> Vec<Vec<u32>> {
    let len = [1, 2, 5, 17, 40, 130];
    len.into_iter()
        .map(|len: u32| (0..len).map(|i| (i * 37 + len * 11) % 90 + 4).collect())
        .collect()
}

/// Every text under every task.
fn embed(embedder: &Embedder, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let inputs: Vec<Input<'_>> = texts
        .iter()
        .flat_map(|ids| {
            TASKS.map(|name| Input {
                content: Content::TokenIds(ids),
                task: task(embedder, name),
            })
        })
        .collect();
    let embedded = embedder.embed(&inputs, &EmbedOptions::default()).unwrap();
    embedded.into_iter().map(|one| one.embedding).collect()
}

fn bits(vectors: &[Vec<f32>]) -> Vec<Vec<u32>> {
    let of = |vector: &Vec<f32>| vector.iter().map(|value| value.to_bits()).collect();
    vectors.iter().map(of).collect()
}

#[test]
fn balanced_and_fast_stay_within_their_budgets() {
    let texts = texts();
    for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
        let exact = embed(&load(Precision::Exact, isa, 1, None).unwrap(), &texts);
        for (precision, budget) in BUDGETS {
            let found = embed(&load(precision, isa, 1, None).unwrap(), &texts);
            let worst = exact.iter().zip(&found).fold(0.0, |worst: f64, (a, b)| {
                let dot: f64 = a
                    .iter()
                    .zip(b)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum();
                worst.max(1.0 - dot)
            });
            eprintln!("{isa} {precision}: 1 - cosine at most {worst:.2e}");
            assert!(worst <= budget, "{isa} {precision}: {worst}");
            // Not the same arithmetic under another name.
            assert_ne!(bits(&exact), bits(&found), "{isa} {precision}");
        }
    }
}

#[test]
fn a_text_gives_the_same_bits_alone_and_at_any_thread_count() {
    let texts = texts();
    for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
        for (precision, _) in BUDGETS {
            let embedder = load(precision, isa, 1, None).unwrap();
            let together = bits(&embed(&embedder, &texts));
            let alone: Vec<_> = texts
                .iter()
                .flat_map(|text| bits(&embed(&embedder, std::slice::from_ref(text))))
                .collect();
            assert_eq!(alone, together, "{isa} {precision} alone");
            let threaded = load(precision, isa, 3, None).unwrap();
            assert_eq!(
                bits(&embed(&threaded, &texts)),
                together,
                "{isa} {precision} threads"
            );
        }
    }
}

#[test]
fn packed_weights_give_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let texts = texts();
    for &precision in Precision::ALL {
        let path = directory.path().join(format!("sub/{precision}.pack"));
        let made = load(precision, Isa::best(), 1, None).unwrap();
        let bytes = made.write_packed(&checkpoint("original"), &path).unwrap();
        assert_eq!(bytes, path.metadata().unwrap().len());
        let mapped = load(precision, Isa::best(), 2, Some(&path)).unwrap();
        assert_eq!(
            bits(&embed(&mapped, &texts)),
            bits(&embed(&made, &texts)),
            "{precision}"
        );
        // Nothing but the file is left behind.
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(
            left,
            1 + Precision::ALL
                .iter()
                .position(|one| *one == precision)
                .unwrap()
        );
    }
}

#[test]
fn packed_weights_that_are_damaged_or_of_another_time_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fast.pack");
    let embedder = load(Precision::Fast, Isa::best(), 1, None).unwrap();
    embedder
        .write_packed(&checkpoint("original"), &path)
        .unwrap();
    let whole = std::fs::read(&path).unwrap();
    let refused = |precision| match load(precision, Isa::best(), 1, Some(&path)) {
        Err(LoadError::PackFile(error)) => error,
        Ok(_) => panic!("the file was taken"),
        Err(error) => panic!("{error}"),
    };
    assert!(matches!(
        refused(Precision::Balanced),
        PackFileError::Stale { .. }
    ));

    // Every place of the preamble and header, and a few of the data.
    let places = (0..600)
        .step_by(7)
        .chain((4096..whole.len()).step_by(whole.len() / 40));
    for place in places {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        // Zeros that fill up are not read.
        if let Err(error) = load(Precision::Fast, Isa::best(), 1, Some(&path)) {
            assert!(
                matches!(error, LoadError::PackFile(PackFileError::Damaged { .. })),
                "{place}: {error}"
            );
        } else {
            assert_eq!(
                whole[place], 0,
                "byte {place} was changed and the file was taken"
            );
        }
    }
    for len in [
        0,
        3,
        20,
        47,
        48,
        300,
        4096,
        whole.len() / 2,
        whole.len() - 4096,
    ] {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(
            matches!(refused(Precision::Fast), PackFileError::Damaged { .. }),
            "cut at {len}"
        );
    }

    std::fs::write(&path, &whole).unwrap();
    let options = LoadOptions {
        precision: Precision::Fast,
        packed: Some(&path),
        ..LoadOptions::default()
    };
    let loaded = Embedder::load(&checkpoint("hf"), &options);
    assert!(
        matches!(
            loaded,
            Err(LoadError::PackFile(PackFileError::Stale { .. }))
        ),
        "made from another checkpoint"
    );
}

#[test]
fn errors_of_single_matrices_add_up_and_leave_no_trace() {
    let exact = load(Precision::Exact, Isa::best(), 1, None).unwrap();
    let texts = texts();
    let inputs: Vec<Input<'_>> = texts
        .iter()
        .map(|ids| Input {
            content: Content::TokenIds(ids),
            task: task(&exact, TASKS[0]),
        })
        .collect();
    let vectors = |embedder: &Embedder| -> Vec<Vec<f32>> {
        let embedded = embedder.embed(&inputs, &EmbedOptions::default()).unwrap();
        embedded.into_iter().map(|one| one.embedding).collect()
    };
    let before = vectors(&exact);
    let original = checkpoint("original");
    let measured = sensitivities(&exact, &original, None, &inputs, &|_, _| ()).unwrap();
    assert_eq!(bits(&vectors(&exact)), bits(&before));
    assert_eq!(measured.len(), 4 * exact.config().num_hidden_layers);
    assert!(measured.iter().all(|matrix| matrix.error > 0.0));

    let fast = vectors(&load(Precision::Fast, Isa::best(), 1, None).unwrap());
    let pairs = before.iter().zip(&fast);
    let whole: f64 = pairs.map(|(a, b)| distance(a, b)).sum::<f64>() / before.len() as f64;
    let sum: f64 = measured.iter().map(|matrix| matrix.error).sum();
    assert!((0.5..2.0).contains(&(sum / whole)), "{sum} {whole}");
}

/// Ids of one text in so many that `round` learns from.
fn lesson(seed: u32) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(0x9e37_79b9).wrapping_add(0x7f4a_7c15);
        state >> 16
    };
    (0..24).map(|_| next() % 90 + 4).collect()
}

#[test]
fn weights_rounded_for_texts_bring_other_texts_nearer() {
    let original = checkpoint("original");
    let exact = load(Precision::Exact, Isa::best(), 1, None).unwrap();
    let teachers: Vec<Vec<u32>> = (0..150).map(lesson).collect();
    let judges: Vec<Vec<u32>> = (1000..1030).map(lesson).collect();
    let inputs: Vec<Input<'_>> = teachers
        .iter()
        .enumerate()
        .map(|(index, ids)| Input {
            content: Content::TokenIds(ids),
            task: task(&exact, TASKS[index % TASKS.len()]),
        })
        .collect();
    let before = embed(&exact, &judges);
    let rounded = round(&exact, &original, &inputs, &|_, _| ()).unwrap();
    assert_eq!(bits(&embed(&exact, &judges)), bits(&before), "no trace");

    let at = |rounded, packed: Option<&Path>, balanced: &[usize]| {
        let options = LoadOptions {
            threads: threads(1),
            precision: Precision::Fast,
            rounded,
            balanced,
            packed,
            ..LoadOptions::default()
        };
        Embedder::load(&original, &options).unwrap()
    };
    let mean = |embedder: &Embedder| -> f64 {
        let found = embed(embedder, &judges);
        let pairs = before.iter().zip(&found);
        pairs.map(|(a, b)| distance(a, b)).sum::<f64>() / before.len() as f64
    };
    let fitted = at(Some(&rounded), None, &[]);
    let (nearest, compensated) = (mean(&at(None, None, &[])), mean(&fitted));
    eprintln!("1 - cosine, mean: {nearest:.2e} to nearest, {compensated:.2e} rounded for texts");
    assert!(compensated < 0.9 * nearest, "{nearest} {compensated}");
    // Some in 16 bits come on top.
    assert!(mean(&at(Some(&rounded), None, &[0, 2])) < compensated);

    // The file has them, and needs nothing else.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fast.pack");
    fitted.write_packed(&original, &path).unwrap();
    let mapped = at(None, Some(&path), &[]);
    assert_eq!(
        bits(&embed(&mapped, &judges)),
        bits(&embed(&fitted, &judges))
    );
}

#[test]
fn the_number_of_threads_changes_no_rounding() {
    let original = checkpoint("original");
    let texts: Vec<Vec<u32>> = (0..40).map(lesson).collect();
    let packed = |count| {
        let exact = load(Precision::Exact, Isa::best(), count, None).unwrap();
        let inputs: Vec<Input<'_>> = texts
            .iter()
            .map(|ids| Input {
                content: Content::TokenIds(ids),
                task: task(&exact, TASKS[0]),
            })
            .collect();
        let rounded = round(&exact, &original, &inputs, &|_, _| ()).unwrap();
        let options = LoadOptions {
            threads: threads(1),
            precision: Precision::Fast,
            rounded: Some(&rounded),
            ..LoadOptions::default()
        };
        bits(&embed(
            &Embedder::load(&original, &options).unwrap(),
            &texts,
        ))
    };
    assert_eq!(packed(1), packed(3));
}
