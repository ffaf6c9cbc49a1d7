//! What it costs to make a batch and to ask for an interruption, by how much waits.
//!
//!     cargo bench -p quintet-server --bench queue
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::time::{Duration, Instant};

use quintet_server::batcher::{BatchLimits, FairQueue, Running, Tenant, Tier};

const LIMITS: BatchLimits = BatchLimits {
    token_budget: 1024,
    batch_tier_patience: Duration::from_secs(600),
};

/// Batches of each measurement.
const ROUNDS: u32 = 200;

fn main() {
    println!("requests   texts   us/batch   us/interruption   us/request");
    for (requests, texts) in [
        (100, 1),
        (1, 1000),
        (1000, 1),
        (10_000, 1),
        (100_000, 1),
        (100, 1000),
    ] {
        measure(requests, texts);
    }
}

fn measure(requests: usize, texts: usize) {
    let now = Instant::now();
    let mut queue = FairQueue::new(LIMITS);
    let arrive = |queue: &mut FairQueue<()>, number: usize| {
        let request = queue.open(&Tenant::default(), Tier::Realtime, now);
        for text in 0..texts {
            // 20 to 99 tokens, in no order.
            queue.push(request, 20 + (number * 31 + text * 47) % 80, ());
        }
    };
    let started = Instant::now();
    (0..requests).for_each(|number| arrive(&mut queue, number));
    let request = started.elapsed() / requests as u32;
    let (mut batch, mut interruption, mut taken) = (Duration::ZERO, Duration::ZERO, 0);
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let Some(next) = queue.next_batch(now) else {
            break;
        };
        batch += started.elapsed();
        taken += 1;
        queue.worked(Tier::Realtime, next.tokens as f64);
        let running = Running {
            last: next.last,
            patience_ends: now + LIMITS.batch_tier_patience,
            ran: 512.0,
            left: 512.0,
            lost: 0.0,
        };
        let started = Instant::now();
        let urgent = queue.interrupting(&running, now);
        interruption += started.elapsed();
        drop(urgent);
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{requests:8}{texts:8}{:11.1}{:18.2}{:13.2}",
        micros(batch / taken),
        micros(interruption / taken),
        micros(request)
    );
}
