//! The routes of Text Embeddings Inference and Cohere's: the engine's vectors in their shapes.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::sync::LazyLock;

use quintet_engine::EmbedOptions;
use quintet_engine::embedding::{EmbeddingType, EncodedEmbedding, encode};
use quintet_server::Config;
use serde_json::{Value, json};
use support::{Answer, EMBEDDER, Running, cosine, floats, vector, vector_of_ids, vector_with};

static SERVER: LazyLock<Running> = LazyLock::new(|| Running::start(Config::default()));

fn post(path: &str, body: &Value) -> Answer {
    let answer = SERVER.post(path, body.to_string());
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
    answer
}

#[test]
fn embed_gives_the_engines_vectors_and_tells_its_cost() {
    let texts = ["Störche", "a stork"];
    for path in ["/embed", "/"] {
        let answer = post(path, &json!({ "inputs": texts }));
        let json = answer.json();
        for (index, text) in texts.iter().enumerate() {
            assert_eq!(floats(&json[index]), vector(text, "raw"));
        }
        let tokens: usize = texts
            .map(|text| EMBEDDER.tokenizer().unwrap().encode(text).unwrap().len())
            .iter()
            .sum();
        let header = |name| answer.header(name).map(str::to_owned);
        assert_eq!(header("x-compute-tokens"), Some(tokens.to_string()));
        assert_eq!(header("x-compute-characters"), Some("14".to_owned()));
        for name in ["x-total-time", "x-queue-time", "x-inference-time"] {
            assert!(header(name).unwrap().parse::<u64>().is_ok());
        }
    }
    let options = EmbedOptions {
        dimensions: Some(EMBEDDER.dimensions(64).unwrap()),
        normalize: false,
        ..EmbedOptions::default()
    };
    let body = json!({
        "inputs": "a stork", "prompt_name": "retrieval.query", "normalize": false, "dimensions": 64,
        "truncate": null,
    });
    let found = floats(&post("/embed", &body).json()[0]);
    assert_eq!(found, vector_with("a stork", "retrieval.query", &options));
    let ids = EMBEDDER.tokenizer().unwrap().encode("a stork").unwrap();
    for inputs in [json!(ids), json!([ids])] {
        let json = post("/embed", &json!({ "inputs": inputs })).json();
        assert_eq!(floats(&json[0]), vector_of_ids(&ids, "raw"));
    }
}

#[test]
fn embed_all_gives_every_tokens_hidden_state() {
    let body = json!({"inputs": ["a stork", "two"], "prompt_name": "separation"});
    let json = post("/embed_all", &body).json();
    let task = EMBEDDER.task("separation").unwrap();
    for (index, text) in ["a stork", "two"].into_iter().enumerate() {
        let text = format!("{}{text}", EMBEDDER.instruction(task));
        let ids = EMBEDDER.tokenizer().unwrap().encode(&text).unwrap();
        let expected = EMBEDDER.hidden_states(&ids, task).unwrap();
        let found: Vec<Vec<f32>> = json[index].as_array().unwrap().iter().map(floats).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn similarity_is_the_cosine_of_the_engines_vectors() {
    let body = json!({
        "inputs": {"source_sentence": "a stork", "sentences": ["a bird", "a bank"]},
        "parameters": {"prompt_name": "text-matching"},
    });
    let found = floats(&post("/similarity", &body).json());
    let source = vector("a stork", "text-matching");
    let expected = ["a bird", "a bank"].map(|text| cosine(&source, &vector(text, "text-matching")));
    assert_eq!(found, expected);
}

#[test]
fn texts_are_ranked_in_a_bare_list() {
    let texts = [
        "The bank raised interest rates.",
        "Storks winter in Africa.",
    ];
    let query = vector("Where do storks go?", "retrieval.query");
    let cosines = texts.map(|text| cosine(&query, &vector(text, "retrieval.passage")));
    assert!(cosines[1] > cosines[0]);
    let scores = |body: &Value| -> Vec<(u64, f32)> {
        let json = post("/rerank", body).json();
        let ranks = json.as_array().unwrap().iter();
        ranks
            .map(|rank| {
                assert_eq!(rank.get("text"), None);
                let score = rank["score"].as_f64().unwrap() as f32;
                (rank["index"].as_u64().unwrap(), score)
            })
            .collect()
    };
    let raw = json!({"query": "Where do storks go?", "texts": texts, "raw_scores": true});
    assert_eq!(scores(&raw), [(1, cosines[1]), (0, cosines[0])]);
    let from_0_to_1 = json!({"query": "Where do storks go?", "texts": texts});
    let halves = cosines.map(|cosine| f32::midpoint(1.0, cosine));
    assert_eq!(scores(&from_0_to_1), [(1, halves[1]), (0, halves[0])]);
    let body = json!({"query": "storks", "texts": texts, "return_text": true, "truncate": null});
    let answer = post("/rerank", &body);
    for rank in answer.json().as_array().unwrap() {
        let index = usize::try_from(rank["index"].as_u64().unwrap()).unwrap();
        assert_eq!(rank["text"], texts[index]);
    }
    assert_eq!(answer.header("x-compute-characters"), Some("61"));
}

#[test]
fn a_text_that_is_ranked_is_cut_on_the_side_that_is_named() {
    let texts = ["stork ".repeat(9000) + "bank"];
    let score = |direction: &str| {
        let body = json!({
            "query": "bank", "texts": texts, "truncate": true, "truncation_direction": direction,
        });
        post("/rerank", &body).json()[0]["score"].as_f64().unwrap()
    };
    // Only what loses its start keeps the word at its end.
    assert_ne!(score("left"), score("Right"));
}

#[test]
fn a_model_that_is_no_classifier_says_so_in_teis_shape() {
    let answer = SERVER.post("/predict", json!({"inputs": "a stork"}).to_string());
    assert_eq!(answer.status, 424);
    let json = answer.json();
    assert_eq!(json["error_type"], "Backend");
    let error = json["error"].as_str().unwrap();
    assert!(error.starts_with("Model is not a classifier model"));
}

#[test]
fn tokens_and_texts_go_both_ways() {
    let text = "Störche überwintern in Afrika 🙂";
    let body = json!({"inputs": [text]});
    let json = post("/tokenize", &body).json();
    let tokens = json[0].as_array().unwrap();
    let ids: Vec<u64> = tokens
        .iter()
        .map(|token| token["id"].as_u64().unwrap())
        .collect();
    let expected = EMBEDDER.tokenizer().unwrap().encode(text).unwrap();
    assert_eq!(
        ids,
        expected.iter().map(|&id| u64::from(id)).collect::<Vec<_>>()
    );
    assert_eq!(
        tokens[0],
        json!({"id": expected[0], "text": "<s>", "special": true, "start": null, "stop": null})
    );
    let characters: Vec<char> = text.chars().collect();
    for token in &tokens[1..tokens.len() - 1] {
        let at = |name: &str| usize::try_from(token[name].as_u64().unwrap()).unwrap();
        let text: String = characters[at("start")..at("stop")].iter().collect();
        assert_eq!(token["text"], text);
    }
    let plain = json!({"inputs": text, "add_special_tokens": false});
    assert_eq!(
        post("/tokenize", &plain).json()[0]
            .as_array()
            .unwrap()
            .len(),
        ids.len() - 2
    );
    let decode = |body: Value| post("/decode", &body).json();
    let text_back = "Storks winter in Africa.";
    let ids = EMBEDDER.tokenizer().unwrap().encode(text_back).unwrap();
    assert_eq!(decode(json!({ "ids": ids })), json!([text_back]));
    assert_eq!(
        decode(json!({"ids": [ids, ids]})),
        json!([text_back, text_back])
    );
    let with_specials = decode(json!({"ids": ids, "skip_special_tokens": false}));
    assert_eq!(with_specials, json!([format!("<s> {text_back}</s>")]));
}

#[test]
fn info_tells_the_model_and_its_limits() {
    let answer = SERVER.get("/info");
    let json = answer.json();
    assert_eq!(json["model_id"], "mini");
    assert_eq!(json["model_type"]["embedding"]["pooling"], "mean");
    assert_eq!(json["max_input_length"], 8192);
    assert_eq!(json["tasks"].as_array().unwrap().len(), 6);
}

#[test]
fn mistakes_have_their_shape() {
    let long = "stork ".repeat(9000);
    for (path, body) in [
        ("/embed", json!({})),
        ("/embed", json!({"inputs": []})),
        ("/embed", json!({"inputs": ""})),
        ("/embed", json!({"inputs": long})),
        ("/embed", json!({"inputs": "a", "prompt_name": "nothing"})),
        ("/embed", json!({"inputs": "a", "dimensions": 0})),
        ("/embed", json!({"inputs": [[4_000_000]]})),
        ("/embed_all", json!({"inputs": ["a", ""]})),
        (
            "/embed_all",
            json!({"inputs": vec!["stork ".repeat(8000); 6]}),
        ),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": []}}),
        ),
        ("/rerank", json!({"query": "a"})),
        ("/rerank", json!({"texts": ["a"]})),
        ("/rerank", json!({"query": "a", "texts": []})),
        ("/rerank", json!({"query": "a", "texts": ["b", ""]})),
        ("/rerank", json!({"query": "a", "texts": [long]})),
        (
            "/rerank",
            json!({"query": "a", "texts": "b", "raw_scores": 1}),
        ),
        ("/tokenize", json!({"inputs": 7})),
        ("/decode", json!({"ids": [4_000_000]})),
        ("/decode", json!({"ids": ["a"]})),
    ] {
        let answer = SERVER.post(path, body.to_string());
        let json = answer.json();
        let shown: String = body.to_string().chars().take(80).collect();
        assert_eq!(answer.status, 422, "{path} {shown}: {json}");
        assert_eq!(json["error_type"], "Validation");
        assert!(json["error"].is_string());
        assert_eq!(json.as_object().unwrap().len(), 2);
    }
}

#[test]
fn cohere_gets_every_type_by_name() {
    let body = json!({
        "model": "mini", "input_type": "search_query", "texts": ["a stork", "a bird"],
        "embedding_types": ["float", "int8", "ubinary", "base64"], "output_dimension": 64,
    });
    let json = post("/v2/embed", &body).json();
    let options = EmbedOptions {
        dimensions: Some(EMBEDDER.dimensions(64).unwrap()),
        ..EmbedOptions::default()
    };
    for (index, text) in ["a stork", "a bird"].into_iter().enumerate() {
        let expected = vector_with(text, "retrieval.query", &options);
        let of = |name: &str| json["embeddings"][name][index].clone();
        assert_eq!(floats(&of("float")), expected);
        let EncodedEmbedding::Signed(int8) = encode(&expected, EmbeddingType::Int8) else {
            unreachable!()
        };
        assert_eq!(of("int8"), json!(int8));
        let EncodedEmbedding::Text(base64) = encode(&expected, EmbeddingType::Base64) else {
            unreachable!()
        };
        assert_eq!(of("base64"), json!(base64));
        assert_eq!(of("ubinary").as_array().unwrap().len(), 8);
    }
    assert_eq!(json["texts"], body["texts"]);
    assert_eq!(json["meta"]["api_version"]["version"], "2");
    assert!(
        json["meta"]["billed_units"]["input_tokens"]
            .as_u64()
            .unwrap()
            > 4
    );
    let inputs = json!([{"content": [{"type": "text", "text": "a stork"}]}]);
    let body = json!({"model": "mini", "input_type": "clustering", "inputs": inputs});
    let json = post("/v2/embed", &body).json();
    assert_eq!(
        floats(&json["embeddings"]["float"][0]),
        vector("a stork", "separation")
    );
}

#[test]
fn cohere_cuts_unless_told_and_warns() {
    let long = "stork ".repeat(9000);
    let json = post("/v2/embed", &json!({ "texts": [long] })).json();
    assert_eq!(json["meta"]["warnings"][0], "text 0 was cut to 8192 tokens");
    for (body, status) in [
        (json!({"texts": [long], "truncate": "NONE"}), 400),
        (json!({}), 400),
        (json!({"texts": []}), 400),
        (json!({"texts": vec!["a"; 97]}), 400),
        (json!({"texts": ["a"], "embedding_types": ["x"]}), 400),
        (json!({"texts": ["a"], "input_type": "image"}), 400),
        (json!({"texts": ["a"], "images": ["data:…"]}), 400),
        (json!({"texts": ["a"], "model": "embed-v4.0"}), 404),
    ] {
        let answer = SERVER.post("/v2/embed", body.to_string());
        let json = answer.json();
        assert_eq!(answer.status, status, "{json}");
        assert!(json["message"].is_string() && json["id"].is_string());
        assert_eq!(json.as_object().unwrap().len(), 2);
    }
}
