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
use quintet_engine::{Content, EmbedOptions, Embedder, Input, Isa, LoadOptions};
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
    let one = load_with("original", 1, Isa::best(), Vec::new());
    let two = load_with("original", 2, Isa::best(), Vec::new());
    let expected = bits(&one, std::slice::from_ref(&long)).remove(0);
    let mixed = [(ids(3), "raw".to_owned()), long, (ids(40), task())];
    assert_eq!(bits(&two, &mixed)[1], expected);
}
