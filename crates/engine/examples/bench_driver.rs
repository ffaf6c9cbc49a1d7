//! Quintet's side of `bench/peers/run.py`: loads a checkpoint once, then answers each JSON line on stdin
//! with one on stdout. `bench/peers/README.md` has the protocol.
//!
//! ```text
//! cargo run --release -p quintet-engine --example bench_driver -- \
//!     --model DIR --precision exact --threads 2 --packed FILE
//! ```
//!
//! Packed weights are kept in FILE, as `quintet` keeps them in its cache.

use std::error::Error;
use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use quintet_engine::{
    Checkpoint, Content, EmbedOptions, Embedder, Input, LoadError, LoadOptions, Precision, Task,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Request {
    sequences: Vec<Vec<u32>>,
    /// One for each sequence.
    tasks: Vec<String>,
    /// Whether the vectors are wanted, too.
    #[serde(default)]
    vectors: bool,
}

#[derive(Serialize)]
struct Ready {
    versions: String,
    setting: String,
    load_s: f64,
}

#[derive(Serialize)]
struct Answer {
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    vectors: Option<Vec<Vec<f32>>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let model = flag("--model")?;
    let precision_name = flag("--precision")?;
    let precision = precision_name.parse::<Precision>()?;
    let threads = flag("--threads")?.parse::<NonZeroUsize>()?;
    let packed = flag("--packed")?;
    let packed = Path::new(&packed);
    let start = Instant::now();
    let checkpoint = Checkpoint::open(model.as_ref())?;
    let load = |packed| {
        let options = LoadOptions {
            threads,
            precision,
            packed,
            ..LoadOptions::default()
        };
        Embedder::load(&checkpoint, &options)
    };
    let embedder = match load(Some(packed)) {
        // Missing or out of date.
        Err(LoadError::PackFile(_)) => {
            let embedder = load(None)?;
            embedder.write_packed(&checkpoint, packed)?;
            embedder
        }
        loaded => loaded?,
    };
    let isa = embedder.cpu().isa();
    say(&Ready {
        versions: format!("quintet {}", env!("CARGO_PKG_VERSION")),
        setting: format!(
            "`{precision_name}`, {isa} kernels, five adapters on, each sequence with its own"
        ),
        load_s: start.elapsed().as_secs_f64(),
    })?;
    for line in std::io::stdin().lock().lines() {
        say(&answer(&embedder, &serde_json::from_str(&line?)?)?)?;
    }
    Ok(())
}

fn answer(embedder: &Embedder, request: &Request) -> Result<Answer, Box<dyn Error>> {
    let tasks = request.tasks.iter().map(|name| embedder.task(name));
    let tasks: Vec<Task> = tasks.collect::<Result<_, _>>()?;
    let start = Instant::now();
    let inputs: Vec<Input<'_>> = request
        .sequences
        .iter()
        .zip(tasks)
        .map(|(token_ids, task)| Input {
            content: Content::TokenIds(token_ids),
            task,
        })
        .collect();
    let embedded = embedder.embed(&inputs, &EmbedOptions::default())?;
    let seconds = start.elapsed().as_secs_f64();
    let vectors = embedded.into_iter().map(|row| row.embedding).collect();
    Ok(Answer {
        seconds,
        vectors: request.vectors.then_some(vectors),
    })
}

/// The value after `name` on the command line.
fn flag(name: &str) -> Result<String, String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments
        .nth(1)
        .ok_or_else(|| format!("missing `{name} VALUE`"))
}

fn say(message: &impl Serialize) -> Result<(), Box<dyn Error>> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, message)?;
    writeln!(stdout)?;
    Ok(stdout.flush()?)
}
