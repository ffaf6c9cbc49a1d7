// cargo add serde_json && cargo add ureq --features json
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = std::env::var("QUINTET_API_KEY").unwrap_or_default();
    let body = json!({
        "model": "«model»",
        "task": "«task»",
        "dimensions": «dimensions»,
        "input": ["Where do storks spend the winter?"],
    });
    let answer: Value = ureq::post("«origin»/v1/embeddings")
        .header("Authorization", format!("Bearer {key}"))
        .send_json(&body)?
        .body_mut()
        .read_json()?;
    let embedding = answer["data"][0]["embedding"].as_array().ok_or("no vector")?;
    println!("{} dimensions, {} tokens", embedding.len(), answer["usage"]["total_tokens"]);
    Ok(())
}
