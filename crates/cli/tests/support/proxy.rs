//! A small CONNECT proxy on 127.0.0.1 that leads every request to one address.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A running proxy.
pub(crate) struct Proxy {
    /// Host and port.
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Leads everything to `target` (host and port), or answers `refusal` instead.
    pub(crate) fn start(target: String, refusal: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (target, heads) = (target.clone(), Arc::clone(&heads));
                thread::spawn(move || serve(stream, &target, refusal, &heads).ok());
            }
        });
        Self { address, seen }
    }

    /// The heads of the requests so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut client: TcpStream,
    target: &str,
    refusal: Option<&str>,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    heads.lock().unwrap().push(head);
    if let Some(refusal) = refusal {
        return write!(client, "HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n");
    }
    let mut server = TcpStream::connect(target)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let mut upstream = server.try_clone()?;
    thread::spawn(move || std::io::copy(&mut reader, &mut upstream));
    std::io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}
