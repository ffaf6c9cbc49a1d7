//! Jina's other routes, and late chunking with spans: scores and vectors are the engine's own.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::sync::LazyLock;

use quintet_engine::EmbedOptions;
use quintet_engine::late_chunking::{ChunkPooling, Document, LongDocument};
use quintet_server::Config;
use serde_json::{Value, json};
use support::{EMBEDDER, Running, cosine, floats, vector};

static SERVER: LazyLock<Running> = LazyLock::new(|| Running::start(Config::default()));

const DOCUMENTS: [&str; 3] = [
    "Storks winter in Africa.",
    "The bank raised interest rates.",
    "A stork builds its nest on a chimney.",
];

#[test]
fn labels_are_scored_by_the_engines_vectors() {
    let labels = ["birds", "money", "weather"];
    let body = json!({"model": "mini", "input": DOCUMENTS, "labels": labels});
    for path in ["/v1/classify", "/classify"] {
        let answer = SERVER.post(path, body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        let json = answer.json();
        for (index, document) in DOCUMENTS.iter().enumerate() {
            let text = vector(document, "classification");
            let cosines = labels.map(|label| cosine(&text, &vector(label, "classification")));
            let sum: f64 = cosines.iter().map(|&value| f64::from(value).exp()).sum();
            let item = &json["data"][index];
            assert_eq!(item["index"], index);
            let mut best = 0;
            for (place, label) in labels.iter().enumerate() {
                let found = &item["predictions"][place];
                assert_eq!(found["label"], *label);
                assert_eq!(found["similarity"].as_f64().unwrap() as f32, cosines[place]);
                let score = f64::from(cosines[place]).exp() / sum;
                assert!((found["score"].as_f64().unwrap() - score).abs() < 1e-12);
                if cosines[place] > cosines[best] {
                    best = place;
                }
            }
            assert_eq!(item["prediction"], labels[best]);
        }
        assert!(json["usage"]["total_tokens"].as_u64().unwrap() > 10);
    }
}

#[test]
fn documents_are_ranked_by_the_engines_vectors() {
    let body = json!({"query": "Where do storks go?", "documents": DOCUMENTS});
    let json = SERVER.post("/v1/rerank", body.to_string()).json();
    assert_eq!(json["method"], "bi-encoder");
    let query = vector("Where do storks go?", "retrieval.query");
    let mut expected: Vec<(usize, f32)> = DOCUMENTS
        .iter()
        .map(|text| cosine(&query, &vector(text, "retrieval.passage")))
        .enumerate()
        .collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    let found = |json: &Value| -> Vec<(usize, f32)> {
        let results = json["results"].as_array().unwrap().iter();
        results
            .map(|result| {
                let index = usize::try_from(result["index"].as_u64().unwrap()).unwrap();
                (index, result["relevance_score"].as_f64().unwrap() as f32)
            })
            .collect()
    };
    assert_eq!(found(&json), expected);
    let first = &json["results"][0];
    assert_eq!(first["document"]["text"], DOCUMENTS[expected[0].0]);
    let documents = DOCUMENTS.map(|text| json!({ "text": text }));
    let body = json!({
        "query": {"text": "Where do storks go?"}, "documents": documents, "top_n": 2,
        "return_documents": false,
    });
    // Without `/v1` it is TEI's route too, which `documents` tell apart.
    for path in ["/v1/rerank", "/rerank"] {
        let json = SERVER.post(path, body.to_string()).json();
        assert_eq!(found(&json), expected[..2]);
        assert_eq!(json["results"][0].get("document"), None);
    }
    let body = json!({"query": "Where do storks go?", "texts": DOCUMENTS});
    assert_eq!(
        found(&SERVER.post("/v1/rerank", body.to_string()).json()),
        expected
    );
}

#[test]
fn spans_of_one_text_are_chunks_of_one_pass() {
    let text = "Störche fliegen nach Süden. They winter in Africa. In spring they return.";
    let options = EmbedOptions::default();
    let task = EMBEDDER.task("retrieval.passage").unwrap();
    let embed = |document| {
        EMBEDDER
            .embed_document(
                document,
                task,
                ChunkPooling::default(),
                LongDocument::Refuse,
                &options,
            )
            .unwrap()
    };
    let spans = [0..27, 20..50, 51..73];
    let by_characters = embed(Document::Characters {
        text,
        spans: &spans,
    });
    let pairs = [[0, 27], [20, 50], [51, 73]];
    let body = json!({"input": text, "spans": pairs, "task": "retrieval.passage"});
    let answer = SERVER.post("/v1/embeddings", body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json = answer.json();
    assert_eq!(json["usage"]["prompt_tokens"], by_characters.tokens);
    for (index, expected) in by_characters.chunks.iter().enumerate() {
        let found = floats(&json["data"][index]["embedding"]);
        assert_eq!(Some(&found), expected.as_ref());
    }
    let by_tokens = embed(Document::Tokens {
        text,
        spans: &[0..4, 4..9],
    });
    let body = json!({
        "input": [text], "late_chunking": true, "spans": [[0, 4], [4, 9]], "span_unit": "tokens",
        "task": "retrieval.passage",
    });
    let found = SERVER.embeddings(&body);
    let expected: Vec<_> = by_tokens.chunks.into_iter().flatten().collect();
    assert_eq!(found, expected);
}

#[test]
fn segments_are_spans_for_late_chunking() {
    let text = "  Storks fly south.\n\nThey winter in Africa. 🙂 In spring they return.\n";
    let segment = |more: Value| {
        let mut body = json!({"content": text, "tokenizer": "model"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = SERVER.post("/v1/segment", body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let plain = EMBEDDER.tokenizer().unwrap().encode_plain(text).unwrap();
    let json = segment(json!({"return_chunks": true, "max_chunk_length": 30}));
    assert_eq!(json["num_tokens"], plain.len());
    let positions = json["chunk_positions"].as_array().unwrap();
    let characters: Vec<char> = text.chars().collect();
    for (position, chunk) in positions.iter().zip(json["chunks"].as_array().unwrap()) {
        let at = |place: usize| usize::try_from(position[place].as_u64().unwrap()).unwrap();
        let text: String = characters[at(0)..at(1)].iter().collect();
        assert_eq!(*chunk, text);
    }
    assert_eq!(json["chunks"][2], "🙂 In spring they return.");
    let body = json!({"input": text, "spans": positions});
    assert_eq!(SERVER.embeddings(&body).len(), positions.len());
    let tokens = segment(json!({"return_tokens": true}));
    let ids: Vec<u64> = tokens["tokens"][0]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|token| token[1].as_array().unwrap())
        .map(|id| id.as_u64().unwrap())
        .collect();
    assert_eq!(
        ids,
        plain.iter().map(|&id| u64::from(id)).collect::<Vec<_>>()
    );
}

#[test]
fn heads_and_tails_are_whole_characters_of_cl100k() {
    let text = "Störche 🙂 überwintern in Afrika";
    let ids = tiktoken_rs::cl100k_base_singleton().encode_ordinary(text);
    let segment = |more: Value| {
        let mut body = json!({"content": text, "return_tokens": true});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        SERVER.post("/segment", body.to_string()).json()
    };
    let whole = segment(json!({}));
    assert_eq!(whole["tokenizer"], "cl100k_base");
    assert_eq!(whole["num_tokens"], ids.len());
    for count in 0..=ids.len() {
        let head = segment(json!({"head": count}));
        let tail = segment(json!({"tail": ids.len() - count}));
        let text_of = |json: &Value| -> String {
            let tokens = json["tokens"][0].as_array().unwrap().iter();
            tokens.map(|token| token[0].as_str().unwrap()).collect()
        };
        assert!(head["num_tokens"].as_u64().unwrap() <= count as u64);
        assert!(text.starts_with(&text_of(&head)));
        assert!(text.ends_with(&text_of(&tail)));
    }
}

#[test]
fn mistakes_are_told_by_their_fields() {
    let long = "stork ".repeat(9000);
    for (path, body, word) in [
        ("/v1/classify", json!({"input": "a"}), "labels"),
        ("/v1/classify", json!({"labels": ["a"]}), "input"),
        (
            "/v1/classify",
            json!({"input": [], "labels": ["a"]}),
            "input",
        ),
        (
            "/v1/classify",
            json!({"input": "a", "labels": ["b", ""]}),
            "labels[1]",
        ),
        (
            "/v1/classify",
            json!({"input": [[1]], "labels": ["b"]}),
            "input[0]",
        ),
        (
            "/v1/classify",
            json!({"input": "a", "classifier_id": "x"}),
            "classifier_id",
        ),
        ("/v1/rerank", json!({"documents": ["a"]}), "query"),
        ("/v1/rerank", json!({"query": "a"}), "documents"),
        (
            "/v1/rerank",
            json!({"query": ["a", "b"], "documents": ["a"]}),
            "query",
        ),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": []}),
            "documents",
        ),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": ["b", ""]}),
            "documents[1]",
        ),
        (
            "/v1/rerank",
            json!({"query": "", "documents": ["b"]}),
            "query",
        ),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": [long]}),
            "context_length_exceeded",
        ),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": ["b"], "top_n": -1}),
            "invalid_body",
        ),
        ("/v1/segment", json!({}), "content"),
        (
            "/v1/segment",
            json!({"content": "a", "tokenizer": "gpt2"}),
            "tokenizer",
        ),
        (
            "/v1/segment",
            json!({"content": "a", "head": 1, "tail": 1}),
            "tail",
        ),
        (
            "/v1/segment",
            json!({"content": "a", "max_chunk_length": 0}),
            "max_chunk_length",
        ),
        (
            "/v1/embeddings",
            json!({"input": "abc", "spans": []}),
            "spans",
        ),
        (
            "/v1/embeddings",
            json!({"input": "abc", "spans": [[0, 9]]}),
            "spans[0]",
        ),
        (
            "/v1/embeddings",
            json!({"input": "abc", "spans": [[0, 1], [2, 1]]}),
            "spans[1]",
        ),
        (
            "/v1/embeddings",
            json!({"input": ["a", "b"], "spans": [[0, 1]]}),
            "spans",
        ),
        (
            "/v1/embeddings",
            json!({"input": "a", "spans": [[0, 1]], "late_chunking": false}),
            "spans",
        ),
        (
            "/v1/embeddings",
            json!({"input": "a b", "spans": [[0, 1]], "span_unit": "x"}),
            "invalid_body",
        ),
    ] {
        let answer = SERVER.post(path, body.to_string());
        let shown: String = body.to_string().chars().take(80).collect();
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (400, word),
            "{path} {shown}: {}",
            answer.body
        );
    }
}

#[test]
fn a_text_loses_its_start_as_asked() {
    let text = format!("first {} last", "stork ".repeat(9000));
    let tokenizer = EMBEDDER.tokenizer().unwrap();
    let plain = tokenizer.encode_plain(&text).unwrap();
    let mut kept = vec![tokenizer.bos_id()];
    kept.extend(&plain[plain.len() - 8190..]);
    kept.push(tokenizer.eos_id());
    let expected = support::vector_of_ids(&kept, "raw");
    let found = SERVER.embeddings(&json!({"input": text, "truncate": "START"}));
    assert_eq!(found, [expected]);
}
