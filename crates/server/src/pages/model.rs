//! `/models/{organisation}/{model}`: everything that is known about a model.

use askama::Template;
use axum::http::HeaderMap;
use axum::response::Response;

use super::charts::{Chart, Shape};
use super::frame::{self, Frame};
use super::models::Listed;
use super::numbers::{counted, grouped};
use super::quick_start::{Snippet, Values, is_plain, snippets};
use crate::app::App;
use crate::catalogue::{Entry, Status};
use crate::error;

#[derive(Template)]
#[template(path = "model.html")]
struct ModelPage<'a> {
    frame: Frame,
    listed: Listed<'a>,
    entry: &'a Entry,
    /// Paragraphs of the description.
    about: Vec<&'a str>,
    specs: Vec<(&'static str, String)>,
    charts: Vec<Chart<'a>>,
    related: Vec<&'a Entry>,
    drawing: Option<Drawing<'a>>,
    /// Programs, where the model runs here.
    snippets: Vec<Snippet>,
    /// What they are filled with.
    task: &'a str,
    tasks: Vec<&'a str>,
    dimensions: u32,
}

/// The architecture as a picture: what flows, and the adapters at its side.
struct Drawing<'a> {
    tokens: String,
    vocabulary: Option<String>,
    layers: u32,
    hidden_size: String,
    attention: String,
    mlp: String,
    pooling: &'a str,
    rank: Option<u32>,
    /// Name and place of each adapter.
    adapters: Vec<(&'a str, usize)>,
    sizes: String,
}

#[derive(Template)]
#[template(path = "missing.html")]
struct Missing<'a> {
    frame: Frame,
    id: &'a str,
}

/// The page of an id; a page that says so where there is none.
pub(super) fn page(app: &App, headers: &HeaderMap, id: &str) -> Response {
    let frame = Frame::new(app, headers, "/models");
    let catalogue = &app.config.catalogue;
    // A page is found by an alias too, so that `/models/mini` is one.
    let by_alias = || catalogue.entries().iter().find(|entry| entry.is_called(id));
    let Some(entry) = catalogue.entry(id).or_else(by_alias) else {
        return error::missing_page(frame::page(&Missing { frame, id }));
    };
    let listed = Listed::new(app, entry);
    let tasks = entry.tasks.iter().map(|task| task.name.as_str());
    let tasks: Vec<&str> = tasks.filter(|name| is_plain(name)).collect();
    let task = tasks.first().copied().unwrap_or("raw");
    let default = entry.dimensions.iter().find(|&&size| size == 256);
    let dimensions = default.copied().or(entry.full_dimensions()).unwrap_or(256);
    let is_here = matches!(listed.status, Status::Live | Status::Loading);
    let name = called(app, entry);
    let programs = || {
        snippets(&Values {
            origin: &frame.origin,
            model: &name,
            task,
            dimensions: &dimensions.to_string(),
        })
    };
    let snippets = if is_here { programs() } else { Vec::new() };
    let related = entry.related.iter();
    frame::page(&ModelPage {
        about: entry
            .about
            .split("\n\n")
            .map(str::trim)
            .filter(|it| !it.is_empty())
            .collect(),
        specs: specs(entry, &listed),
        charts: Chart::all(entry, catalogue),
        related: related.filter_map(|id| catalogue.entry(id)).collect(),
        drawing: Drawing::new(entry),
        snippets,
        task,
        tasks,
        dimensions,
        listed,
        entry,
        frame,
    })
}

/// The name under which requests reach the model.
pub(super) fn called(app: &App, entry: &Entry) -> String {
    let service = app.service_now();
    let name = service.as_ref().map(|service| service.model.id());
    name.filter(|name| is_plain(name))
        .unwrap_or(entry.short_id())
        .to_owned()
}

fn specs(entry: &Entry, listed: &Listed<'_>) -> Vec<(&'static str, String)> {
    let mut specs = vec![
        ("Longest input", format!("{} tokens", listed.context)),
        ("Dimensions", dimensions(entry, listed)),
        ("Parameters", listed.parameters.clone()),
    ];
    if let Some(architecture) = &entry.architecture {
        specs.push(("Architecture", architecture.family.clone()));
        let layers = architecture.layers.map(|layers| match architecture.heads {
            Some(heads) => format!("{layers} layers of {heads} heads"),
            None => format!("{layers} layers"),
        });
        specs.extend(layers.map(|layers| ("Depth", layers)));
        let adapters = architecture
            .adapter_rank
            .zip(architecture.adapter_parameters);
        specs.extend(adapters.map(|(rank, parameters)| {
            let count = entry.tasks.iter().filter(|task| task.name != "raw").count();
            (
                "Task adapters",
                format!("{count} of rank {rank}, {} parameters", counted(parameters)),
            )
        }));
        specs.extend(
            architecture
                .pooling
                .clone()
                .map(|pooling| ("Pooling", pooling)),
        );
        let vocabulary = architecture.vocabulary.map(|size| grouped(size.into()));
        specs.extend(vocabulary.map(|size| ("Vocabulary", format!("{size} pieces"))));
    }
    let languages = entry.languages.as_ref();
    specs.extend(languages.map(|languages| ("Languages", languages.count.clone())));
    specs.push(("Licence", listed.license.to_owned()));
    specs.extend(entry.released.clone().map(|date| ("Released", date)));
    specs
}

/// Every size, or the range where any can be asked for.
fn dimensions(entry: &Entry, listed: &Listed<'_>) -> String {
    if entry.any_dimension_between || entry.dimensions.len() < 2 {
        return listed.dimensions.clone();
    }
    let sizes: Vec<String> = entry.dimensions.iter().map(u32::to_string).collect();
    sizes.join(", ")
}

impl<'a> Drawing<'a> {
    /// `None` where too little is known for a picture.
    fn new(entry: &'a Entry) -> Option<Self> {
        let architecture = entry.architecture.as_ref()?;
        let hidden_size = architecture.hidden_size?;
        let attention = match architecture.heads {
            Some(heads) => format!("{heads} heads × {}", hidden_size / heads.max(1)),
            None => "attention".to_owned(),
        };
        let mlp = architecture
            .intermediate_size
            .map(|size| format!("{hidden_size} → {size} → {hidden_size}"));
        let adapters = architecture.adapter_rank.map(|_| {
            let named = entry.tasks.iter().filter(|task| task.name != "raw");
            named
                .enumerate()
                .map(|(index, task)| (task.name.as_str(), index))
                .collect()
        });
        let context = entry
            .context_tokens
            .map(|tokens| format!("up to {} tokens", grouped(tokens.into())));
        let sizes: Vec<String> = entry.dimensions.iter().map(u32::to_string).collect();
        Some(Self {
            tokens: context.unwrap_or_else(|| "tokens".to_owned()),
            vocabulary: architecture.vocabulary.map(|size| grouped(size.into())),
            layers: architecture.layers?,
            hidden_size: hidden_size.to_string(),
            attention,
            mlp: mlp.unwrap_or_else(|| "two products".to_owned()),
            pooling: architecture.pooling.as_deref().unwrap_or("pooling"),
            rank: architecture.adapter_rank,
            adapters: adapters.unwrap_or_default(),
            sizes: if entry.any_dimension_between {
                sizes.join(" … ")
            } else {
                sizes.join(" · ")
            },
        })
    }
}
