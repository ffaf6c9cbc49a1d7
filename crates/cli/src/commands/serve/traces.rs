//! Spans of requests, sent to an OpenTelemetry collector (OTLP over HTTP, in protobuf).

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;

use super::log::BoxedLayer;

/// For a request to the collector; spans are dropped when it takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Collects spans and sends them from a thread of its own. What is left is sent when it is dropped.
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// Begins to send to a collector, such as `http://127.0.0.1:4318`.
    ///
    /// # Errors
    /// For an endpoint that is no URL.
    pub(super) fn start(endpoint: &str) -> anyhow::Result<Self> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector(agent.into()))
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(TIMEOUT)
            .build()
            .with_context(|| format!("traces cannot be sent to `{endpoint}`"))?;
        let resource = Resource::builder()
            .with_service_name("quintet")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_batch_exporter(exporter)
            .build();
        Ok(Self(provider))
    }

    /// What hands spans over.
    pub(super) fn layer(&self) -> BoxedLayer {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("quintet"))
            .with_location(false)
            .with_threads(false)
            .with_filter(LevelFilter::INFO)
            .boxed()
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// The client that the program has anyway.
#[derive(Debug)]
struct Collector(ureq::Agent);

#[async_trait]
impl HttpClient for Collector {
    // It blocks, and the thread that calls it does nothing else.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.0.run(request.map(|body| body.to_vec()))?;
        let (parts, mut body) = response.into_parts();
        let body = body.read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }
}
