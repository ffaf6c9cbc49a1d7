//! Which files of a repository the engine reads.

use super::{HubError, api::ListedFile};

/// The files to have, and how many are left alone.
#[derive(Debug)]
pub(crate) struct Selection {
    /// In the order of the list.
    pub(crate) files: Vec<ListedFile>,
    /// Number of the others.
    pub(crate) skipped: usize,
}

/// Chooses the configuration, the tokenizer, the model card, and the weights in one format:
/// safetensors with adapter folders, else one GGUF file with its LoRA files.
///
/// # Errors
/// [`HubError::NoWeights`] when there are weights in neither format.
pub(crate) fn select(repo: &str, files: Vec<ListedFile>) -> Result<Selection, HubError> {
    let total = files.len();
    let has = |wanted: fn(&ListedFile) -> bool| files.iter().any(wanted);
    let is_safetensors = has(is_base_weights) && has(|file| file.path.as_str() == "config.json");
    let best_gguf = files.iter().filter_map(gguf_rank).min();
    if !is_safetensors && best_gguf.is_none() {
        return Err(HubError::NoWeights {
            repo: repo.into(),
            found: other_weights(&files),
        });
    }
    let mut has_base = false;
    let mut is_wanted = |file: &ListedFile| {
        if is_described(file) {
            return true;
        }
        if is_safetensors {
            return is_base_weights(file) || is_weight_index(file) || is_adapter(file);
        }
        if is_gguf_lora(file) {
            return true;
        }
        // One base file: of equals the first.
        let is_base = gguf_rank(file).is_some_and(|rank| Some(rank) == best_gguf) && !has_base;
        has_base |= is_base;
        is_base
    };
    let files: Vec<ListedFile> = files.into_iter().filter(|file| is_wanted(file)).collect();
    Ok(Selection {
        skipped: total - files.len(),
        files,
    })
}

fn is_described(file: &ListedFile) -> bool {
    let is_named = matches!(
        file.path.as_str(),
        "config.json"
            | "tokenizer.json"
            | "tokenizer_config.json"
            | "special_tokens_map.json"
            | "config_sentence_transformers.json"
            | "modules.json"
            | "1_Pooling/config.json"
    );
    let is_for_people = || {
        let name = file.path.as_str().to_ascii_uppercase();
        matches!(name.as_str(), "README.MD" | "LICENSE" | "NOTICE")
            || name.starts_with("LICENSE.")
            || name.starts_with("NOTICE.")
    };
    is_named || is_for_people()
}

fn is_base_weights(file: &ListedFile) -> bool {
    let name = file.path.as_str();
    file.path.is_top_level()
        && name.ends_with(".safetensors")
        && name != "adapter_model.safetensors"
}

fn is_weight_index(file: &ListedFile) -> bool {
    file.path.is_top_level() && file.path.as_str().ends_with(".safetensors.index.json")
}

fn is_adapter(file: &ListedFile) -> bool {
    matches!(
        file.path.file_name(),
        "adapter_config.json" | "adapter_model.safetensors"
    )
}

fn is_gguf_lora(file: &ListedFile) -> bool {
    let name = file.path.as_str().to_ascii_lowercase();
    file.path.is_top_level() && name.starts_with("lora-") && name.ends_with(".gguf")
}

/// How near a base file is to the original weights, the least is the nearest: bf16 as they are,
/// then what holds them all, then what rounds. `None` for a format that the engine does not read.
fn gguf_rank(file: &ListedFile) -> Option<u8> {
    let name = file.path.as_str().to_ascii_lowercase();
    let stem = name.strip_suffix(".gguf")?;
    if !file.path.is_top_level() || is_gguf_lora(file) {
        return None;
    }
    let mut rank = 1;
    for part in stem.split(['-', '.']) {
        match part {
            "bf16" => rank = 0,
            "f32" | "fp32" => rank = 2,
            "f16" | "fp16" => rank = 3,
            "q8_0" => rank = 4,
            _ if is_quantised(part) => return None,
            _ => {}
        }
    }
    Some(rank)
}

/// `q4_k_m`, `iq3_xs`, `tq1_0` and the like.
fn is_quantised(part: &str) -> bool {
    let digits = ["iq", "tq", "mxfp", "q"].iter();
    let mut digits = digits.filter_map(|prefix| part.strip_prefix(prefix));
    digits.any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Files with weights in formats that are not read, a few by name.
fn other_weights(files: &[ListedFile]) -> String {
    let endings = [
        ".bin",
        ".onnx",
        ".pt",
        ".pth",
        ".h5",
        ".msgpack",
        ".gguf",
        ".safetensors",
    ];
    let names: Vec<&str> = files
        .iter()
        .map(|file| file.path.as_str())
        .filter(|name| endings.iter().any(|ending| name.ends_with(ending)))
        .collect();
    match names.len() {
        0 => "none".into(),
        1..=4 => format!("`{}`", names.join("`, `")),
        more => format!("`{}` and {} more", names[..4].join("`, `"), more - 4),
    }
}

#[cfg(test)]
mod tests {
    use quintet_engine::weights::hub::RepoPath;

    use super::*;

    fn listed(names: &[&str]) -> Vec<ListedFile> {
        let file = |name: &&str| ListedFile {
            path: RepoPath::parse(name).unwrap(),
            size_bytes: Some(1),
            etag: None,
        };
        names.iter().map(file).collect()
    }

    fn chosen(names: &[&str]) -> Vec<String> {
        let selection = select("org/name", listed(names)).unwrap();
        assert_eq!(selection.skipped, names.len() - selection.files.len());
        let path = |file: &ListedFile| file.path.as_str().to_owned();
        selection.files.iter().map(path).collect()
    }

    #[test]
    fn the_original_repository() {
        let wanted = [
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        let unwanted = [
            ".gitattributes",
            "custom_st.py",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "onnx/model_fp16.onnx",
            "pytorch_model.bin",
            "onnx/config.json",
            "other/model.safetensors",
        ];
        assert_eq!(chosen(&[&wanted[..], &unwanted[..]].concat()), wanted);
    }

    #[test]
    fn adapter_folders_come_along() {
        let wanted = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "retrieval_query/adapter_config.json",
            "retrieval_query/adapter_model.safetensors",
        ];
        assert_eq!(chosen(&wanted), wanted);
    }

    #[test]
    fn of_many_gguf_files_the_nearest_to_the_original_is_taken() {
        let lora = "lora-retrieval.query-jina-embeddings-v3-F16.gguf";
        let all = [
            "jina-embeddings-v3-Q4_K_M.gguf",
            "jina-embeddings-v3-Q8_0.gguf",
            "jina-embeddings-v3-f16.gguf",
            "jina-embeddings-v3.BF16.gguf",
            "jina-embeddings-v3-IQ3_XS.gguf",
            lora,
            "README.md",
        ];
        assert_eq!(
            chosen(&all),
            ["jina-embeddings-v3.BF16.gguf", lora, "README.md"]
        );
        assert_eq!(chosen(&["a-Q8_0.gguf", "a-Q4_0.gguf"]), ["a-Q8_0.gguf"]);
        assert_eq!(chosen(&["model.gguf"]), ["model.gguf"]);
        assert_eq!(chosen(&["a-f16.gguf", "b-f16.gguf"]), ["a-f16.gguf"]);
    }

    #[test]
    fn safetensors_come_before_gguf() {
        let all = ["config.json", "model.safetensors", "model-f16.gguf"];
        assert_eq!(chosen(&all), ["config.json", "model.safetensors"]);
    }

    #[test]
    fn without_weights_the_error_says_what_is_there() {
        let cases: [(&[&str], &str); 4] = [
            (&["config.json"], "found none"),
            (
                &["config.json", "pytorch_model.bin"],
                "found `pytorch_model.bin`",
            ),
            (&["a-Q4_K_M.gguf"], "found `a-Q4_K_M.gguf`"),
            (
                &["a.bin", "b.bin", "c.bin", "d.bin", "e.bin"],
                "`d.bin` and 1 more",
            ),
        ];
        for (names, expected) in cases {
            let error = select("org/name", listed(names)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 1);
        }
    }
}
