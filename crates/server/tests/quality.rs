//! `/v1/quality` against the vectors of `/v1/embeddings`, and what it refuses.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![allow(dead_code, reason = "each test program uses a part of the support")]

mod support;

use std::sync::LazyLock;

use quintet_engine::quality::{Collection, SAMPLE};
use quintet_server::Config;
use serde_json::{Value, json};
use support::Running;

static SERVER: LazyLock<Running> = LazyLock::new(|| Running::start(Config::default()));

fn measured(body: &Value) -> Value {
    let answer = SERVER.post("/v1/quality", body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn find<'a>(json: &'a Value, dimensions: usize, kind: &str) -> &'a Value {
    let rows = json["measurements"].as_array().unwrap();
    let found = |row: &&Value| row["dimensions"] == dimensions && row["embedding_type"] == kind;
    rows.iter().find(found).unwrap()
}

/// Vectors as the API gives them, as numbers.
fn vectors(texts: &[&str], task: &str, dimensions: usize, kind: &str) -> Vec<Vec<f64>> {
    let body =
        json!({"input": texts, "task": task, "dimensions": dimensions, "embedding_type": kind});
    let json = SERVER.post("/v1/embeddings", body.to_string()).json();
    let rows = json["data"].as_array().unwrap().iter();
    let number = |value: &Value| value.as_f64().unwrap();
    rows.map(|row| {
        row["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect()
    })
    .collect()
}

#[test]
fn numbers_are_those_of_the_vectors_that_the_api_gives() {
    let sample = Collection::read(SAMPLE).unwrap();
    let documents: Vec<&str> = sample.documents.iter().map(|it| it.text.as_str()).collect();
    let queries: Vec<&str> = sample.queries.iter().map(|it| it.text.as_str()).collect();
    let json = measured(&json!({"collection": SAMPLE, "recall_at": 3}));
    assert_eq!(json["measurements"].as_array().unwrap().len(), 12);
    for (dimensions, kind) in [(256, "float"), (64, "float"), (128, "int8")] {
        let documents = vectors(&documents, "retrieval.passage", dimensions, kind);
        let queries = vectors(&queries, "retrieval.query", dimensions, kind);
        let (mut recall, mut ndcg) = (0.0, 0.0);
        for (query, row) in sample.queries.iter().zip(&queries) {
            // By sorting, as it is usually written; scores of floats and bytes are not equal here.
            let score =
                |document: &Vec<f64>| -> f64 { document.iter().zip(row).map(|(a, b)| a * b).sum() };
            let mut order: Vec<usize> = (0..documents.len()).collect();
            order.sort_by(|a, b| score(&documents[*b]).total_cmp(&score(&documents[*a])));
            let grade = |document: usize| {
                let found = query.relevant.iter().find(|it| it.document == document);
                found.map_or(0.0, |it| it.grade)
            };
            let gain = |grades: &[f64]| -> f64 {
                let grades = grades.iter().take(10).enumerate();
                grades
                    .map(|(place, grade)| grade / (place as f64 + 2.0).log2())
                    .sum()
            };
            let found: Vec<f64> = order.iter().map(|document| grade(*document)).collect();
            let mut best = found.clone();
            best.sort_by(|a, b| b.total_cmp(a));
            ndcg += gain(&found) / gain(&best);
            let hits = found[..3].iter().filter(|grade| **grade > 0.0).count();
            recall += hits as f64 / query.relevant.len() as f64;
        }
        let count = sample.queries.len() as f64;
        let row = find(&json, dimensions, kind);
        for (name, expected) in [("ndcg", ndcg / count), ("recall", recall / count)] {
            let found = row[name].as_f64().unwrap();
            assert!(
                (found - expected).abs() < 1e-9,
                "{dimensions} {kind} {name}: {found}, expected {expected}"
            );
        }
    }
    assert_eq!(find(&json, 256, "binary")["bytes"], 32);
    assert_eq!(find(&json, 256, "float")["difference"], 0.0);
    let [full, least] = [find(&json, 256, "float"), find(&json, 32, "binary")];
    assert!(full["ndcg"].as_f64() > least["ndcg"].as_f64(), "{json}");
}

#[test]
fn what_is_to_be_kept_decides_what_is_recommended() {
    let bytes = |keep: f64| {
        let json = measured(&json!({"collection": SAMPLE, "keep": keep}));
        let place = json["recommended"].as_u64().unwrap() as usize;
        let row = &json["measurements"][place];
        let full = find(&json, 256, "float")["ndcg"].as_f64().unwrap();
        assert!(row["ndcg"].as_f64().unwrap() >= keep * full);
        row["bytes"].as_u64().unwrap()
    };
    assert_eq!(bytes(0.0), 4);
    let (some, nearly_all) = (bytes(0.8), bytes(0.99));
    assert!(
        4 < some && some < nearly_all && nearly_all <= 1024,
        "{some} {nearly_all}"
    );
}

#[test]
fn tokens_are_those_of_the_texts_and_csv_is_read_as_jsonl() {
    let csv = measured(
        &json!({"collection": "query,document\na stork,Storks fly.\na bank,Banks lend.\n"}),
    );
    let jsonl = measured(
        &json!({"collection": "{\"query\": \"a stork\", \"document\": \"Storks fly.\"}\n\
        {\"query\": \"a bank\", \"document\": \"Banks lend.\"}"}),
    );
    assert_eq!(csv, jsonl);
    assert_eq!(csv["documents"]["count"], 2);
    let tokens = |field: &str| csv[field]["tokens"].as_u64().unwrap();
    assert_eq!(
        csv["usage"]["total_tokens"],
        tokens("documents") + tokens("queries")
    );
    let texts = json!({"input": ["Storks fly.", "Banks lend."], "task": "retrieval.passage"});
    let embedded = SERVER.post("/v1/embeddings", texts.to_string()).json();
    assert_eq!(embedded["usage"]["total_tokens"], tokens("documents"));
}

#[test]
fn a_beir_folder_is_measured_as_the_same_pairs_are() {
    let files = json!({
        "corpus": "{\"_id\": \"1\", \"title\": \"Storks\", \"text\": \"fly.\"}\n{\"_id\": 2, \"text\": \"\"}\n{\"_id\": 3, \"text\": \"Banks lend.\"}",
        "queries": "{\"_id\": \"a\", \"text\": \"a stork\"}\n{\"_id\": \"b\", \"text\": \"a bank\"}\n{\"_id\": \"c\", \"text\": \"a fish\"}\n",
        "qrels": "query-id\tcorpus-id\tscore\na\t1\t1\nb\t3\t1\nc\t2\t1\n",
    });
    let found = measured(&json!({"collection": files}));
    let pairs = "query,document\na stork,Storks fly.\na bank,Banks lend.\n";
    let expected = measured(&json!({"collection": pairs}));
    assert_eq!(found["measurements"], expected["measurements"]);
    assert_eq!(found["usage"], expected["usage"]);
    assert_eq!(found["documents"]["left_out"], 1);
    assert_eq!(expected["documents"]["left_out"], Value::Null);
}

#[test]
fn what_is_refused_is_named() {
    let pair = "query,document\na,A\nb,B\n";
    let long = format!("query,document\na,A\nb,{}\n", "word ".repeat(9000));
    let many: String = (0..1100)
        .map(|index| format!("q{index},d{index}\n"))
        .collect();
    for (body, param, words) in [
        (json!({}), "collection", "is missing"),
        (
            json!({"collection": ""}),
            "collection",
            "There are 0 documents",
        ),
        (
            json!({"collection": "query,document\na,A\n,\n"}),
            "collection",
            "Line 3 has neither",
        ),
        (
            json!({"collection": "{\"query\": 7}"}),
            "collection",
            "at line 1 column",
        ),
        (
            json!({"collection": {"corpus": "", "queries": "{\"_id\": 1}", "qrels": ""}}),
            "collection",
            "Line 1 of `queries.jsonl` has no `text`",
        ),
        (
            json!({"collection": {
                "corpus": format!("{{\"_id\": 1, \"text\": \"a\"}}\n{{\"_id\": 2, \"text\": \"{}\"}}", "word ".repeat(9000)),
                "queries": "{\"_id\": 1, \"text\": \"a\"}",
                "qrels": "1\t1\t1",
            }}),
            "line 2 of corpus.jsonl",
            "maximum context length",
        ),
        (
            json!({"collection": pair, "recall_at": 0}),
            "recall_at",
            "expected 1 to 1000",
        ),
        (
            json!({"collection": pair, "keep": 1.5}),
            "keep",
            "expected 0 to 1",
        ),
        (
            json!({"collection": long}),
            "line 3",
            "maximum context length",
        ),
        (
            json!({"collection": format!("query,document\n{many}")}),
            "collection",
            "2200 documents and queries",
        ),
        (
            json!({"collection": pair, "model": "other"}),
            "model",
            "other",
        ),
    ] {
        let answer = SERVER.post("/v1/quality", body.to_string());
        assert!((400..=404).contains(&answer.status), "{}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!(error["param"], param, "{error}");
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{error}"
        );
    }
    for body in [
        json!({"collection": 7}),
        json!({"collection": {"corpus": "", "queries": ""}}),
    ] {
        let answer = SERVER.post("/v1/quality", body.to_string());
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "invalid_body", "{error}");
        let words = "expected a text, or an object with the texts `corpus`, `queries` and `qrels`";
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{error}"
        );
    }
    let cut = measured(&json!({"collection": long, "truncate": true}));
    assert!(cut["documents"]["tokens"].as_u64().unwrap() > 8192);
}
