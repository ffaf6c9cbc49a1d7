//! `/v1/embeddings` over real HTTP with the built-in model: every vector is the engine's own, bit for
//! bit, and every mistake is told in the contracts' words.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::sync::LazyLock;

use base64::Engine as _;
use quintet_engine::embedding::{EmbeddingType, EncodedEmbedding, encode};
use quintet_engine::late_chunking::{ChunkPooling, Document, LongDocument};
use quintet_engine::{EmbedOptions, Truncate};
use quintet_server::{Config, EmptyInput};
use serde_json::{Value, json};
use support::{EMBEDDER, Running, floats, vector, vector_with};

static SERVER: LazyLock<Running> = LazyLock::new(|| Running::start(Config::default()));

const TASKS: [&str; 6] = [
    "raw",
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
];

#[test]
fn the_smallest_request_gives_the_base_models_vector() {
    let answer = SERVER.post("/v1/embeddings", r#"{"input": "Where do storks go?"}"#);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json = answer.json();
    assert_eq!(json["object"], "list");
    assert_eq!(json["model"], "mini");
    assert_eq!(json["data"][0]["object"], "embedding");
    assert_eq!(json["data"][0]["index"], 0);
    assert_eq!(
        floats(&json["data"][0]["embedding"]),
        vector("Where do storks go?", "raw")
    );
    let tokens = EMBEDDER
        .tokenizer()
        .unwrap()
        .encode("Where do storks go?")
        .unwrap();
    assert_eq!(json["usage"]["prompt_tokens"], tokens.len());
    assert_eq!(json["usage"]["total_tokens"], tokens.len());
    assert!(
        json["system_fingerprint"]
            .as_str()
            .unwrap()
            .starts_with("fp_")
    );
    assert!(answer.header("x-request-id").is_some());
    assert!(answer.header("openai-processing-ms").is_some());
}

#[test]
fn a_task_is_named_in_every_way() {
    let vectors = |body: Value| SERVER.embeddings(&body);
    let query = [vector("storks", "retrieval.query")];
    for body in [
        json!({"input": "storks", "task": "retrieval.query"}),
        json!({"input": ["storks"], "task_type": "RETRIEVAL_QUERY"}),
        json!({"input": {"text": "storks"}, "input_type": "search_query"}),
        json!({"input": "storks", "model": "mini:retrieval.query"}),
        json!({"input": [{"text": "storks", "task": "retrieval.query"}], "task": "separation"}),
        json!({"texts": ["storks"], "task": "retrieval.query", "model": "mini:separation"}),
    ] {
        assert_eq!(vectors(body.clone()), query, "{body}");
    }
    let raw = [vector("storks", "raw")];
    for body in [
        json!({"input": "storks", "model": "mini:raw"}),
        json!({"input": "storks", "task": "raw"}),
        json!({"input": "storks", "task_type": "TASK_TYPE_UNSPECIFIED", "task": null}),
    ] {
        assert_eq!(vectors(body.clone()), raw, "{body}");
    }
    let clustering = json!({"input": "storks", "input_type": "clustering"});
    assert_eq!(vectors(clustering), [vector("storks", "separation")]);
}

#[test]
fn one_request_mixes_tasks() {
    let input: Vec<Value> = TASKS
        .iter()
        .map(|task| json!({"text": "a stork", "task": task}))
        .collect();
    let found = SERVER.embeddings(&json!({ "input": input }));
    let expected: Vec<_> = TASKS.iter().map(|task| vector("a stork", task)).collect();
    assert_eq!(found, expected);
}

#[test]
fn vectors_do_not_depend_on_the_load() {
    let texts: Vec<String> = (0..24)
        .map(|number| {
            format!(
                "text {number}: {}",
                "storks fly south. ".repeat(number * number % 40)
            )
        })
        .collect();
    let expected: Vec<Vec<f32>> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| vector(text, TASKS[number % 6]))
        .collect();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (texts, expected) = (&texts, &expected);
            scope.spawn(move || {
                for round in 0..6 {
                    let picked: Vec<usize> = (0..1 + (client + round) % 5)
                        .map(|step| (client * 7 + round * 5 + step * 3) % 24)
                        .collect();
                    let input: Vec<Value> = picked
                        .iter()
                        .map(|&pick| json!({"text": texts[pick], "task": TASKS[pick % 6]}))
                        .collect();
                    let found = SERVER.embeddings(&json!({ "input": input }));
                    for (found, &pick) in found.iter().zip(&picked) {
                        assert!(found == &expected[pick], "text {pick}");
                    }
                }
            });
        }
    });
}

#[test]
fn base64_holds_the_same_bits() {
    let body = json!({"input": "storks", "encoding_format": "base64"});
    let json = SERVER.post("/v1/embeddings", body.to_string()).json();
    let text = json["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap();
    let found: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect();
    assert_eq!(found, vector("storks", "raw"));
}

#[test]
fn lists_of_sizes_and_types_come_from_one_pass() {
    let body = json!({
        "input": "storks", "dimensions": [64, 128], "embedding_type": ["float", "ubinary", "int8"],
    });
    let json = SERVER.post("/v1/embeddings", body.to_string()).json();
    let options = |size| EmbedOptions {
        dimensions: Some(EMBEDDER.dimensions(size).unwrap()),
        ..EmbedOptions::default()
    };
    let data = &json["data"][0];
    assert_eq!(
        floats(&data["embedding"]),
        vector_with("storks", "raw", &options(64))
    );
    let variants = data["embeddings"].as_array().unwrap();
    assert_eq!(variants.len(), 6);
    let wide = vector_with("storks", "raw", &options(128));
    assert_eq!(floats(&variants[3]["embedding"]), wide);
    let EncodedEmbedding::Unsigned(bits) = encode(&wide, EmbeddingType::Ubinary) else {
        unreachable!()
    };
    assert_eq!(variants[4]["embedding"], json!(bits));
    assert_eq!(variants[4]["dimensions"], 128);
    assert_eq!(variants[4]["embedding_type"], "ubinary");
}

#[test]
fn token_arrays_are_decoded_and_the_vocabulary_is_declared() {
    let text = "Störche überwintern in Afrika. 🙂";
    let ids = tiktoken_rs::cl100k_base_singleton().encode_ordinary(text);
    let body = json!({"input": [ids, ids], "task": "separation"});
    let answer = SERVER.post("/v1/embeddings", body.to_string());
    assert_eq!(
        answer.header("x-token-encoding"),
        Some("cl100k_base"),
        "{}",
        answer.body
    );
    let json = answer.json();
    assert_eq!(
        floats(&json["data"][1]["embedding"]),
        vector(text, "separation")
    );
    let own = EMBEDDER.tokenizer().unwrap().encode(text).unwrap();
    let body = json!({"input": own, "token_encoding": "model"});
    assert_eq!(SERVER.embeddings(&body), [vector(text, "raw")]);
}

#[test]
fn long_texts_are_refused_or_cut_and_receipted() {
    let text = "stork ".repeat(9000);
    let answer = SERVER.post("/v1/embeddings", json!({"input": ["a", text]}).to_string());
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "context_length_exceeded")
    );
    let json = answer.json();
    assert_eq!(json["error"]["param"], "input[1]");
    let message = json["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "This model's maximum context length is 8192 tokens, however you requested "
        )
    );
    let body = json!({"input": text, "truncate": true, "dimensions": 32});
    let json = SERVER.post("/v1/embeddings", body.to_string()).json();
    let options = EmbedOptions {
        truncate: Truncate::End,
        dimensions: Some(EMBEDDER.dimensions(32).unwrap()),
        ..EmbedOptions::default()
    };
    let data = &json["data"][0];
    assert_eq!(
        floats(&data["embedding"]),
        vector_with(&text, "raw", &options)
    );
    assert_eq!(
        (data["tokens"].clone(), data["truncated"].clone()),
        (json!(8192), json!(true))
    );
    let cut_at = usize::try_from(data["cut_at"].as_u64().unwrap()).unwrap();
    let before: String = text.chars().take(cut_at).collect();
    assert_eq!(
        EMBEDDER.tokenizer().unwrap().encode(&before).unwrap().len(),
        8192
    );
}

#[test]
fn late_chunking_is_the_engines() {
    let chunks = [
        "Storks fly south.",
        "They winter in Africa.",
        "In spring they return.",
    ];
    let body = json!({"input": chunks, "late_chunking": true, "task": "retrieval.passage"});
    let answer = SERVER.post("/v1/embeddings", body.to_string());
    let json = answer.json();
    let document = EMBEDDER
        .embed_document(
            Document::Strings(&chunks),
            EMBEDDER.task("retrieval.passage").unwrap(),
            ChunkPooling::default(),
            LongDocument::Refuse,
            &EmbedOptions::default(),
        )
        .unwrap();
    assert_eq!(json["usage"]["prompt_tokens"], document.tokens);
    for (index, expected) in document.chunks.iter().enumerate() {
        let found = floats(&json["data"][index]["embedding"]);
        assert_eq!(Some(&found), expected.as_ref());
    }
}

#[test]
fn mistakes_are_told_in_the_contracts_words() {
    let long: Vec<&str> = vec!["x"; 2049];
    for (body, status, word) in [
        ("{".to_owned(), 400, "invalid_body"),
        ("{}".to_owned(), 400, "input"),
        (json!({"input": []}).to_string(), 400, "input"),
        (json!({"input": ""}).to_string(), 400, "input[0]"),
        (json!({"input": ["a", ""]}).to_string(), 400, "input[1]"),
        (
            json!({"input": long}).to_string(),
            400,
            "array_above_max_length",
        ),
        (
            json!({"input": "a", "dimensions": 0}).to_string(),
            400,
            "dimensions",
        ),
        (
            json!({"input": "a", "dimensions": -1}).to_string(),
            400,
            "dimensions",
        ),
        (
            json!({"input": "a", "dimensions": 4096}).to_string(),
            400,
            "dimensions",
        ),
        (
            json!({"input": "a", "task": "clustering"}).to_string(),
            400,
            "task",
        ),
        (
            json!({"input": "a", "task": "retrieval"}).to_string(),
            400,
            "task",
        ),
        (
            json!({"input": "a", "model": "gpt-5"}).to_string(),
            404,
            "model_not_found",
        ),
        (
            json!({"input": "a", "model": "mini:x"}).to_string(),
            400,
            "model",
        ),
        (json!({"input": [[100256]]}).to_string(), 400, "input[0]"),
        (
            json!({"input": [[1]], "token_encoding": "x"}).to_string(),
            400,
            "token_encoding",
        ),
        (
            json!({"input": "a", "embedding_type": "f8"}).to_string(),
            400,
            "embedding_type",
        ),
        (
            json!({"input": "a", "embedding_type": "int8", "normalized": false}).to_string(),
            400,
            "normalized",
        ),
        (r#"{"input": "\ud800"}"#.to_owned(), 400, "invalid_body"),
        ("[".repeat(100_000), 400, "invalid_body"),
    ] {
        let answer = SERVER.post("/v1/embeddings", &body);
        let shown: String = body.chars().take(60).collect();
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (status, word),
            "{shown}: {}",
            answer.body
        );
    }
    let answer = SERVER.post("/v1/embeddings", b"{\"input\": \"\xff\"}");
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "invalid_body")
    );
}

#[test]
fn an_operator_chooses_what_empty_texts_become() {
    let config = |empty_input| Config {
        empty_input,
        ..Config::default()
    };
    let body = json!({"input": ["", "stork", ""], "task": "separation"});
    let zero = Running::start(config(EmptyInput::Zero));
    let found = zero.embeddings(&body);
    assert_eq!(found[1], vector("stork", "separation"));
    for empty in [&found[0], &found[2]] {
        assert!(empty.len() == found[1].len() && empty.iter().all(|&value| value == 0.0));
    }
    let embed = Running::start(config(EmptyInput::Embed));
    assert_eq!(embed.embeddings(&body)[2], vector("", "separation"));
}
