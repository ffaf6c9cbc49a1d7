//! Late chunking of texts: strings, characters and tokens name the same chunks; odd spans are refused.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code fails by panicking"
)]

mod support;

use proptest::prelude::*;
use quintet_engine::late_chunking::{ChunkPooling, Document, LongDocument};
use quintet_engine::{Content, EmbedError, EmbedOptions, EmbeddedDocument, Embedder, Input, Task};
use support::load;

fn embed(embedder: &Embedder, document: Document<'_>) -> Result<EmbeddedDocument, EmbedError> {
    let task = embedder.task("retrieval.passage").unwrap();
    let pooling = ChunkPooling::default();
    embedder.embed_document(
        document,
        task,
        pooling,
        LongDocument::default(),
        &EmbedOptions::default(),
    )
}

#[test]
fn strings_characters_and_tokens_name_the_same_chunks() {
    let embedder = load("original");
    let strings = [
        "Folge dem weißen Kaninchen.",
        "跟着白兔走。",
        "Follow the white rabbit.",
    ];
    let text = strings.join(" ");
    let by_strings = embed(&embedder, Document::Strings(&strings)).unwrap();
    let (mut characters, mut tokens) = (Vec::new(), Vec::new());
    let (mut character, mut token) = (0, 0);
    for string in strings {
        let len = string.chars().count();
        characters.push(character..character + len);
        character += len + 1;
        let count = embedder
            .tokenizer()
            .unwrap()
            .encode_plain(string)
            .unwrap()
            .len();
        tokens.push(token..token + count);
        token += count;
    }
    let by_characters = Document::Characters {
        text: &text,
        spans: &characters,
    };
    let by_tokens = Document::Tokens {
        text: &text,
        spans: &tokens,
    };
    assert_eq!(embed(&embedder, by_characters).unwrap(), by_strings);
    assert_eq!(embed(&embedder, by_tokens).unwrap(), by_strings);
}

#[test]
fn the_document_vector_is_the_texts_own_embedding() {
    let embedder = load("original");
    let task = embedder.task("retrieval.passage").unwrap();
    let text = "Follow the white rabbit. Sigue al conejo blanco.";
    let spans = [0..24];
    let document = embed(
        &embedder,
        Document::Characters {
            text,
            spans: &spans,
        },
    )
    .unwrap();
    let input = Input {
        content: Content::Text(text),
        task,
    };
    let embedded = embedder
        .embed(&[input], &EmbedOptions::default())
        .unwrap()
        .remove(0);
    assert_eq!((document.tokens, document.windows), (embedded.tokens, 1));
    assert!(support::worst(&document.embedding, &embedded.embedding) < 1e-6);
}

#[test]
fn long_documents_run_in_windows_or_are_cut() {
    let embedder = load("original");
    let sentence = "Follow the white rabbit through the garden. ".repeat(200);
    let strings = vec![sentence.as_str(); 3];
    let whole = embed(&embedder, Document::Strings(&strings)).unwrap();
    assert!(whole.tokens > 8192 && whole.windows >= 2 && !whole.truncated);
    assert!(whole.chunks.iter().all(Option::is_some));
    let cut = embedder
        .embed_document(
            Document::Strings(&strings),
            Task::RAW,
            ChunkPooling::default(),
            LongDocument::Cut,
            &EmbedOptions::default(),
        )
        .unwrap();
    assert_eq!((cut.tokens, cut.windows, cut.truncated), (8192, 1, true));
    assert!(cut.chunks[0].is_some() && cut.chunks[2].is_none());
    let refused = embedder.embed_document(
        Document::Strings(&strings),
        Task::RAW,
        ChunkPooling::default(),
        LongDocument::Refuse,
        &EmbedOptions::default(),
    );
    let error = refused.unwrap_err().to_string();
    assert!(error.ends_with("expected at most 8192"), "{error}");
}

#[test]
fn odd_spans_are_refused_with_the_chunk_named() {
    let embedder = load("original");
    let error = |document: Document<'_>| embed(&embedder, document).unwrap_err().to_string();
    let text = "Hello, world!";
    assert_eq!(
        error(Document::Strings(&[])),
        "the document has no chunks, expected at least one"
    );
    assert_eq!(
        error(Document::Strings(&["a", " "])),
        "chunk 1 holds no token, expected at least one"
    );
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "a reversed range is what is tested"
    )]
    for (spans, message) in [
        (
            [0..5, 9..14],
            "chunk 1 spans 9..14, expected a range within 0..13 characters",
        ),
        (
            [0..5, 9..7],
            "chunk 1 spans 9..7, expected a range within 0..13 characters",
        ),
        (
            [0..5, 7..7],
            "chunk 1 holds no token, expected at least one",
        ),
    ] {
        assert_eq!(
            error(Document::Characters {
                text,
                spans: &spans
            }),
            message
        );
    }
    let spans = [0..usize::MAX];
    assert!(
        error(Document::Tokens {
            text,
            spans: &spans
        })
        .starts_with("chunk 0 spans 0..18446744073709551615")
    );
}

#[test]
fn any_spans_over_any_text_give_vectors_or_an_error() {
    let embedder = load("original");
    let span = (0usize..40, 0usize..40).prop_map(|(start, end)| start..end);
    let spans = prop::collection::vec(span, 0..5);
    let config = ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(text in any::<String>(), spans in spans, by_tokens: bool)| {
        let document = if by_tokens {
            Document::Tokens { text: &text, spans: &spans }
        } else {
            Document::Characters { text: &text, spans: &spans }
        };
        if let Ok(embedded) = embed(&embedder, document) {
            prop_assert_eq!(embedded.chunks.len(), spans.len());
            for value in embedded.chunks.iter().flatten().flatten() {
                prop_assert!(value.is_finite());
            }
        }
    });
}
