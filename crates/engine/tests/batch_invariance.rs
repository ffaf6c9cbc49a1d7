//! The vector of a text is the same to the bit alone, in any batch, at any number of threads.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code fails by panicking"
)]

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use quintet_engine::batch::{PackedBatch, Sequence};
use quintet_engine::encoder::PooledRows;
use quintet_engine::{Content, EmbedOptions, Embedder, Input, Isa, LoadOptions, Pass, Precision};
use support::{checkpoint, load_with, threads};

fn bits(embedder: &Embedder, texts: &[(Vec<u32>, String)]) -> Vec<Vec<u32>> {
    let inputs: Vec<Input<'_>> = texts
        .iter()
        .map(|(ids, task)| Input {
            content: Content::TokenIds(ids),
            task: embedder.task(task).unwrap(),
        })
        .collect();
    let embedded = embedder.embed(&inputs, &EmbedOptions::default()).unwrap();
    embedded
        .iter()
        .map(|one| one.embedding.iter().map(|value| value.to_bits()).collect())
        .collect()
}

#[test]
fn a_text_gives_the_same_bits_alone_in_any_batch_and_at_any_thread_count() {
    for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
        let alone = load_with("original", 1, isa, Vec::new());
        let options = |count, token_budget| LoadOptions {
            threads: threads(count),
            isa,
            token_budget,
            ..LoadOptions::default()
        };
        let others: Vec<Embedder> = [(1, 97), (2, 1024), (3, 300), (5, 4096)]
            .map(|(count, budget)| {
                Embedder::load(&checkpoint("original"), &options(count, budget)).unwrap()
            })
            .into();
        let names: Vec<String> = alone
            .tasks()
            .map(str::to_owned)
            .chain(["raw".to_owned()])
            .collect();
        let text = (
            prop::collection::vec(0u32..320, 1..180),
            prop::sample::select(names),
        );
        let mut runner = TestRunner::new(Config {
            cases: 24,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&prop::collection::vec(text, 1..12), |texts| {
                let expected: Vec<_> = texts
                    .iter()
                    .flat_map(|text| bits(&alone, std::slice::from_ref(text)))
                    .collect();
                for (index, other) in others.iter().enumerate() {
                    prop_assert_eq!(&bits(other, &texts), &expected, "{}, engine {}", isa, index);
                }
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn a_long_text_gives_the_same_bits_beside_short_ones() {
    let ids = |len: u32| {
        (0..len)
            .map(|place| (place * 37 + len) % 320)
            .collect::<Vec<_>>()
    };
    let task = || "retrieval.passage".to_owned();
    let long = (ids(2500), task());
    let mixed = [(ids(3), "raw".to_owned()), long.clone(), (ids(40), task())];
    for &precision in Precision::ALL {
        let load = |count| {
            let options = LoadOptions {
                threads: threads(count),
                precision,
                ..LoadOptions::default()
            };
            Embedder::load(&checkpoint("original"), &options).unwrap()
        };
        let expected = bits(&load(1), std::slice::from_ref(&long)).remove(0);
        // So many rows that each thread takes some of its own through a layer's products.
        for count in [2, 3] {
            assert_eq!(
                bits(&load(count), &mixed)[1],
                expected,
                "{precision} {count}"
            );
        }
    }
}

#[test]
fn passes_that_take_turns_give_the_bits_of_passes_alone() {
    let embedder = load_with("original", 2, Isa::best(), Vec::new());
    let batch = |lens: &[u32]| {
        let tasks: Vec<String> = embedder.tasks().map(str::to_owned).collect();
        let sequences: Vec<Sequence> = lens
            .iter()
            .zip(tasks.iter().cycle())
            .map(|(&len, task)| {
                let token_ids = (0..len).map(|place| (place * 31 + len) % 320).collect();
                Sequence::whole(token_ids, embedder.task(task).unwrap())
            })
            .collect();
        PackedBatch::pack(&sequences)
    };
    let alone = |lens: &[u32]| embedder.forward(batch(lens)).unwrap();
    let next = |pass: &mut Pass| embedder.step(pass).unwrap();
    let finish = |mut pass: Pass| -> PooledRows {
        loop {
            if let Some(rows) = next(&mut pass) {
                return rows;
            }
        }
    };
    let (long, short) = (&[5000, 40][..], &[3, 17, 400][..]);
    let (expected_long, expected_short) = (alone(long), alone(short));

    let mut pass = embedder.begin(batch(long)).unwrap();
    let (mut steps, mut done) = (0, 0.0);
    let rows = loop {
        // A pass that runs in between, and one that is given up half-way.
        let mut given_up = embedder.begin(batch(short)).unwrap();
        next(&mut given_up);
        next(&mut given_up);
        if steps % 7 == 0 {
            let between = embedder.begin(batch(short)).unwrap();
            assert_eq!(finish(between), expected_short);
        }
        drop(given_up);
        let now_done = embedder.done(&pass);
        assert!((done..=1.0).contains(&now_done));
        // Counted within the layers, of which there are 2: the longest step here is an attention's.
        assert!(now_done - done < 0.45, "{now_done} after {done}");
        done = now_done;
        steps += 1;
        if let Some(rows) = next(&mut pass) {
            break rows;
        }
    };
    assert_eq!(rows, expected_long);
    // 14 blocks of rows twice, rotation and attention in each of 2 layers, both ends.
    assert!(steps >= 2 * (2 * 14 + 2) + 2, "{steps} steps");
}
