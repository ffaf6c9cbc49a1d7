//! Code that a visitor can copy and run: the files of `quick_start/` with the visitor's own address,
//! the model's name, a task and a size in place of `«origin»`, `«model»`, `«task»` and `«dimensions»`.

/// A program.
pub(super) struct Snippet {
    /// Its language, as the id of its tab.
    pub(super) id: &'static str,
    /// What its tab says.
    pub(super) title: &'static str,
    pub(super) pieces: Vec<Piece>,
}

/// A part of a program.
pub(super) struct Piece {
    pub(super) text: String,
    /// What it stands for, where the page may change it.
    pub(super) fills: Option<&'static str>,
}

/// What is filled in.
pub(super) struct Values<'a> {
    pub(super) origin: &'a str,
    pub(super) model: &'a str,
    pub(super) task: &'a str,
    pub(super) dimensions: &'a str,
}

const FILES: [(&str, &str, &str); 5] = [
    ("curl", "curl", include_str!("../../quick_start/curl.sh")),
    (
        "openai",
        "Python, openai",
        include_str!("../../quick_start/openai.py"),
    ),
    (
        "langchain",
        "Python, LangChain",
        include_str!("../../quick_start/langchain.py"),
    ),
    (
        "javascript",
        "JavaScript",
        include_str!("../../quick_start/javascript.mjs"),
    ),
    ("rust", "Rust", include_str!("../../quick_start/main.rs")),
];

/// All programs. The values stand between quotes in five languages, so they must be plain: a host, and
/// names without quotes, backslashes and spaces.
pub(super) fn snippets(values: &Values<'_>) -> Vec<Snippet> {
    let snippet = |&(id, title, text): &(&'static str, &'static str, &str)| Snippet {
        id,
        title,
        pieces: pieces(text, values),
    };
    FILES.iter().map(snippet).collect()
}

/// Whether a name can stand between quotes in any language.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte);
    !name.is_empty() && name.bytes().all(plain)
}

fn pieces(text: &str, values: &Values<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut parts = text.trim_end().split('«');
    let plain = |text: &str| Piece {
        text: text.to_owned(),
        fills: None,
    };
    pieces.extend(parts.next().map(plain));
    for part in parts {
        let (name, rest) = part.split_once('»').unwrap_or((part, ""));
        let (fills, value) = match name {
            "origin" => (None, values.origin),
            "model" => (None, values.model),
            "task" => (Some("task"), values.task),
            _ => (Some("dimensions"), values.dimensions),
        };
        let text = value.to_owned();
        pieces.push(Piece { text, fills });
        pieces.push(plain(rest));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_names_the_address_the_model_the_task_and_the_size() {
        let values = Values {
            origin: "https://example.org:1",
            model: "the-model",
            task: "the.task",
            dimensions: "77",
        };
        for snippet in snippets(&values) {
            let code: String = snippet
                .pieces
                .iter()
                .map(|piece| piece.text.as_str())
                .collect();
            for value in ["https://example.org:1/v1", "the-model", "the.task", "77"] {
                assert!(code.contains(value), "{}: {value}", snippet.id);
            }
            assert!(!code.contains(['«', '»']), "{}", snippet.id);
        }
        assert!(is_plain("jinaai/jina-embeddings-v3") && !is_plain("a\"b") && !is_plain("a b"));
    }
}
