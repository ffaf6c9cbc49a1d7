//! A running server with the built-in model, and a client.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use quintet_engine::{
    BuiltInModel, Checkpoint, Content, EmbedOptions, Embedder, Input, LoadOptions,
};
use quintet_server::store::accounts::Change;
use quintet_server::store::{Database, Durability, Location, StoreError, Time, transaction};
use quintet_server::{Config, Listen, Model, SelfTestError, Server};
use serde_json::Value;
use tokio::sync::oneshot;

/// The built-in model, loaded anew.
pub(crate) fn load() -> Embedder {
    let checkpoint = Checkpoint::built_in(&BuiltInModel {
        name: quintet_mini::NAME,
        config_json: quintet_mini::CONFIG_JSON,
        model_safetensors: quintet_mini::MODEL_SAFETENSORS,
        tokenizer_json: quintet_mini::TOKENIZER_JSON,
    });
    Embedder::load(&checkpoint.unwrap(), &LoadOptions::default()).unwrap()
}

/// What the server's answers are compared with.
pub(crate) static EMBEDDER: LazyLock<Embedder> = LazyLock::new(load);

/// Changes a hosted service's state from beside the server, as the command line does.
pub(crate) fn change<T>(
    location: &Location,
    work: impl FnOnce(&mut dyn Database, Change<'_>) -> Result<T, StoreError>,
) -> T {
    let mut database = location.open().unwrap();
    let change = Change {
        actor: "cli",
        now: Time::now(),
    };
    let work = |database: &mut dyn Database| work(database, change);
    transaction(&mut *database, Durability::Disk, work).unwrap()
}

/// A server in this process, on a port of its own; it stops when it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts with a configuration; the port is chosen by the system.
    pub(crate) fn start(config: Config) -> Self {
        Self::start_with(config, || Model::new(load(), vec!["mini".to_owned()]))
    }

    /// Starts with a way of loading.
    pub(crate) fn start_with(
        mut config: Config,
        load: impl FnOnce() -> Result<Model, SelfTestError> + Send + 'static,
    ) -> Self {
        if let Listen::Tcp(address) = &mut config.listen {
            address.set_port(0);
        }
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = Server::bind(config).await.unwrap();
                bound.send(server.address().clone()).unwrap();
                let stop = async {
                    let _ = stopped.await;
                };
                server.run(load, stop).await.unwrap();
            });
        });
        let address = match address.recv().unwrap() {
            Listen::Tcp(address) => address,
            // Nobody asks for the address of such a server.
            Listen::Unix(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Asks it to stop, as SIGTERM does.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has ended.
    pub(crate) fn join(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Sends a request and gives the answer, whatever its status.
    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.post_with(path, &[], body)
    }

    /// The same with headers. Waits for the model unless told otherwise.
    pub(crate) fn post_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let mut request = AGENT.post(format!("http://{}{path}", self.address));
        if !headers.iter().any(|(name, _)| *name == "prefer") {
            request = request.header("prefer", "wait=100");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(request.send(body.as_ref()).unwrap())
    }

    /// Gets a path.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    /// The same with headers.
    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = AGENT.get(format!("http://{}{path}", self.address));
        request = request.header("prefer", "wait=100");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(request.call().unwrap())
    }

    /// Deletes a path.
    pub(crate) fn delete_with(&self, path: &str, key: Option<&str>) -> Answer {
        let mut request = AGENT.delete(format!("http://{}{path}", self.address));
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        Answer::read(request.call().unwrap())
    }

    /// Sends a file of this text as a browser's form.
    pub(crate) fn upload(&self, key: Option<&str>, purpose: &str, text: &str) -> Answer {
        self.upload_with(key, &[("purpose", purpose)], text)
    }

    /// The same with these fields before it.
    pub(crate) fn upload_with(
        &self,
        key: Option<&str>,
        fields: &[(&str, &str)],
        text: &str,
    ) -> Answer {
        const EDGE: &str = "edge-of-the-form";
        let field = |(name, value): &(&str, &str)| {
            format!(
                "--{EDGE}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            )
        };
        let fields: String = fields.iter().map(field).collect();
        let body = format!(
            "{fields}--{EDGE}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"lines.jsonl\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n{text}\r\n--{EDGE}--\r\n"
        );
        let content_type = format!("multipart/form-data; boundary={EDGE}");
        let authorization = key.map(|key| format!("Bearer {key}"));
        let mut headers = vec![("content-type", content_type.as_str())];
        if let Some(value) = &authorization {
            headers.push(("authorization", value));
        }
        self.post_with("/v1/files", &headers, body)
    }

    /// Embeds and gives the float vectors.
    pub(crate) fn embeddings(&self, body: &Value) -> Vec<Vec<f32>> {
        let answer = self.post("/v1/embeddings", body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        let data = answer.json();
        let data = data["data"].as_array().unwrap().iter();
        data.map(|item| floats(&item["embedding"])).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// Statuses are answers, not errors. No connection is used again: the server of a test may listen where
/// that of another did, or have closed one whose body it did not want.
static AGENT: LazyLock<Arc<ureq::Agent>> = LazyLock::new(|| {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0)
        .build();
    Arc::new(config.into())
});

/// Status, headers and body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: ureq::http::HeaderMap,
    pub(crate) bytes: Vec<u8>,
    /// The bytes, if they are text.
    pub(crate) body: String,
}

impl Answer {
    fn read(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let bytes = response
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_vec();
        let bytes = bytes.unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: String::from_utf8(bytes.clone()).unwrap_or_default(),
            bytes,
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `error.code`, or `error.param` where there is no code.
    pub(crate) fn error(&self) -> String {
        let json = self.json();
        assert!(json["detail"].is_string(), "{json}");
        assert_eq!(json["detail"], json["error"]["message"]);
        assert!(json["request_id"].is_string());
        let code = json["error"]["code"].as_str();
        let param = json["error"]["param"].as_str();
        code.or(param).unwrap_or("").to_owned()
    }
}

/// The engine's own vector of a text.
pub(crate) fn vector(text: &str, task: &str) -> Vec<f32> {
    vector_with(text, task, &EmbedOptions::default())
}

/// The same with options.
pub(crate) fn vector_with(text: &str, task: &str, options: &EmbedOptions) -> Vec<f32> {
    vector_of(Content::Text(text), task, options)
}

/// The engine's own vector of token ids.
pub(crate) fn vector_of_ids(token_ids: &[u32], task: &str) -> Vec<f32> {
    vector_of(Content::TokenIds(token_ids), task, &EmbedOptions::default())
}

fn vector_of(content: Content<'_>, task: &str, options: &EmbedOptions) -> Vec<f32> {
    let task = EMBEDDER.task(task).unwrap();
    let mut embedded = EMBEDDER.embed(&[Input { content, task }], options).unwrap();
    embedded.remove(0).embedding
}

/// The product of two vectors of length 1, summed in order.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    products.sum::<f64>() as f32
}

/// A JSON list as clients read it: decimals to f64, then to f32.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap() as f32).collect()
}
