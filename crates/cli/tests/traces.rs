//! Traces of `quintet serve`, as a collector receives them.

#![cfg(feature = "otel")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

#[path = "support/cli.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod cli;

use cli::{MODEL, quintet};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Takes one request and gives its first line and its body.
fn receive(listener: &TcpListener) -> (String, Vec<u8>) {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    reader
        .get_mut()
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .unwrap();
    (first, body)
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_request_joins_the_callers_trace_and_tells_no_text() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut command = quintet();
    command
        .args(["serve", "--model", MODEL, "--listen", "127.0.0.1:0"])
        .args(["--log-format", "json", "--log-level", "info"])
        .env("QUINTET_OTLP_ENDPOINT", &endpoint)
        .env("QUINTET_API_KEY", "sesame")
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    let address = listening["address"].as_str().unwrap();
    let mut response = ureq::post(format!("http://{address}/v1/embeddings?where=nowhere"))
        .header("authorization", "Bearer sesame")
        .header("prefer", "wait=100")
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .send(r#"{"input": "Where do storks go?"}"#)
        .unwrap();
    assert_eq!(response.status().as_u16(), 200);
    response.body_mut().read_to_string().unwrap();
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.unwrap().success());
    let (first, body) = receive(&listener);
    assert!(first.starts_with("POST /v1/traces "), "{first}");
    let trace: Vec<u8> = (0..16)
        .map(|place| u8::from_str_radix(&TRACE[2 * place..][..2], 16).unwrap())
        .collect();
    // Protobuf holds strings and ids as they are.
    for part in [
        &trace[..],
        b"quintet",
        b"POST /v1/embeddings",
        b"tokenize",
        b"forward",
        b"http.response.status_code",
    ] {
        assert!(holds(&body, part), "{}", String::from_utf8_lossy(part));
    }
    for secret in ["storks", "sesame", "nowhere"] {
        assert!(!holds(&body, secret.as_bytes()), "{secret}");
    }
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
}
