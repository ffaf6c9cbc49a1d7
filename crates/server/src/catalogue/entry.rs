//! The fields of a model's file. Whatever is not known is left out.

use serde::{Deserialize, Serialize};

use super::License;
use crate::metering::Price;

/// A model, as its file says.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `organisation/model`, which is also the path of its page.
    pub id: String,
    /// Other names under which its weights are found.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What people call it.
    pub name: String,
    /// Who made it.
    pub provider: String,
    /// What it is, in one line.
    pub line: String,
    /// The same at length: paragraphs, an empty line between two.
    #[serde(default)]
    pub about: String,
    /// Whether this program can run it.
    pub availability: Availability,
    /// When it came out, as `2024-09-18`, `2024-09` or `2024`.
    pub released: Option<String>,
    /// Its longest input in tokens.
    pub context_tokens: Option<u32>,
    /// Sizes of its vectors, ascending; the last one is the full size.
    #[serde(default)]
    pub dimensions: Vec<u32>,
    /// Whether any size between the first and the last can be asked for.
    #[serde(default)]
    pub any_dimension_between: bool,
    /// All weights, adapters included.
    pub parameters: Option<u64>,
    /// What it is made of.
    pub architecture: Option<Architecture>,
    /// What it can be told to do.
    #[serde(default)]
    pub tasks: Vec<TaskUse>,
    /// What it reads.
    pub languages: Option<Languages>,
    /// What its weights may be used for; nothing is known where it is missing.
    pub license: Option<License>,
    /// What its use costs here; nothing where it is missing.
    pub price: Option<Price>,
    /// What its owner charges elsewhere.
    pub published_price: Option<PublishedPrice>,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// How much machine it needs.
    #[serde(default)]
    pub efficiency: Vec<String>,
    /// What it is good for.
    #[serde(default)]
    pub best_for: Vec<String>,
    /// What it is not good for.
    #[serde(default)]
    pub not_for: Vec<String>,
    /// What was measured, by whom.
    #[serde(default)]
    pub benchmarks: Vec<Benchmark>,
    /// Questions that people ask.
    #[serde(default)]
    pub faq: Vec<Faq>,
    /// Where to read on.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Ids of models that one would look at beside it.
    #[serde(default)]
    pub related: Vec<String>,
}

/// Whether a model can run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// This program runs it, if the operator names it.
    #[default]
    Runnable,
    /// The operator means to serve it.
    ComingSoon,
    /// Facts to compare with.
    Comparison,
}

/// What a model is made of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Its family, such as `XLM-RoBERTa`.
    pub family: String,
    /// Encoder or decoder layers.
    pub layers: Option<u32>,
    /// Width of a token's vector.
    pub hidden_size: Option<u32>,
    /// Attention heads of a layer.
    pub heads: Option<u32>,
    /// Width inside the MLP.
    pub intermediate_size: Option<u32>,
    /// Ids of the tokenizer.
    pub vocabulary: Option<u32>,
    /// How it knows where a token stands.
    pub positions: Option<String>,
    /// How tokens become one vector.
    pub pooling: Option<String>,
    /// Rank of its task adapters; none where it is missing.
    pub adapter_rank: Option<u32>,
    /// Weights of all task adapters together.
    pub adapter_parameters: Option<u64>,
}

/// A task and when to use it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskUse {
    /// Its name in requests.
    pub name: String,
    /// When to use it.
    pub when: String,
    /// What is put before the text, its last space included.
    pub instruction: Option<String>,
}

/// What a model reads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Languages {
    /// How many, in the maker's words: `89`, `over 100`.
    pub count: String,
    /// Those that it was tuned for, by their English names.
    #[serde(default)]
    pub best: Vec<String>,
}

/// What its owner charges elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPrice {
    /// Micro-dollars per million tokens.
    pub micro_usd_per_million: u64,
    /// The page that says so.
    pub source: String,
    /// When it was read.
    pub date: String,
}

/// Scores of one benchmark, larger being better.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// Its name; equal names are compared.
    pub name: String,
    /// What is counted, such as `nDCG@10 in percent`.
    pub metric: String,
    /// What the labels of the scores are.
    #[serde(default)]
    pub axis: Axis,
    /// The scores, in the order of the chart.
    pub scores: Vec<Score>,
    /// Who says so, in words.
    pub source: String,
    /// Where.
    pub url: Option<String>,
    /// When, as `2024-09-18`, `2024-09` or `2024`.
    pub date: String,
    /// What a reader has to know.
    pub note: Option<String>,
}

/// What the labels of a benchmark's scores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Tasks or sets of a benchmark.
    #[default]
    Tasks,
    /// Sizes of the vector.
    Dimensions,
}

/// A score.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// What was scored.
    pub label: String,
    /// How well, in percent.
    pub value: f64,
}

/// A question that people ask.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faq {
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
}

/// Where to read on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// What is there.
    pub title: String,
    /// Where it is.
    pub url: String,
}

/// How a model stands on this server, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It answers.
    Live,
    /// It is being loaded.
    Loading,
    /// It would run if the operator named it.
    Cold,
    /// The operator means to serve it.
    ComingSoon,
    /// It is here to compare with.
    Comparison,
}

impl Status {
    pub(crate) fn of(entry: &Entry, is_served: bool, is_ready: bool) -> Self {
        match entry.availability {
            Availability::Comparison => Self::Comparison,
            Availability::ComingSoon => Self::ComingSoon,
            Availability::Runnable if is_served && is_ready => Self::Live,
            Availability::Runnable if is_served => Self::Loading,
            Availability::Runnable => Self::Cold,
        }
    }

    /// As it stands on a page.
    pub fn words(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Loading => "loading",
            Self::Cold => "cold",
            Self::ComingSoon => "coming soon",
            Self::Comparison => "for comparison",
        }
    }
}

impl Entry {
    /// Of a model that nobody has written about: what its name or path tells.
    pub(super) fn unlisted(name: &str) -> Self {
        let last = name.rsplit(['/', '\\']).find(|part| !part.is_empty());
        let last = last.unwrap_or("model");
        let plain = |letter: char| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => letter,
            _ => '-',
        };
        let short: String = last.chars().take(128).map(plain).collect();
        Self {
            id: format!("local/{short}"),
            aliases: vec![name.to_owned()],
            name: last.to_owned(),
            provider: "this server's operator".to_owned(),
            line: "A model of the architecture of jina-embeddings-v3 that the catalogue does not know."
                .to_owned(),
            ..Self::default()
        }
    }

    /// The organisation of its id.
    pub fn organisation(&self) -> &str {
        self.id.split_once('/').map_or("", |(before, _)| before)
    }

    /// The part of its id behind the organisation.
    pub fn short_id(&self) -> &str {
        self.id.split_once('/').map_or(&self.id, |(_, after)| after)
    }

    /// Whether the name is its id or an alias.
    pub fn is_called(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// Its full size.
    pub fn full_dimensions(&self) -> Option<u32> {
        self.dimensions.last().copied()
    }
}
