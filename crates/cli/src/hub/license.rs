//! Licences in plain words, shown before anything is downloaded.

use quintet_engine::weights::hub::HubId;

/// What a model's repository says about its licence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct License {
    /// The hub's identifier, as in `cc-by-nc-4.0`; `None` when the repository states none.
    pub(crate) id: Option<String>,
}

impl License {
    /// One line: the licence's name.
    pub(crate) fn name(&self) -> &str {
        match self.id.as_deref() {
            Some("cc-by-nc-4.0") => "CC BY-NC 4.0 (Creative Commons Attribution-NonCommercial)",
            Some("apache-2.0") => "Apache License 2.0",
            Some("mit") => "MIT License",
            Some(id) => id,
            None => "not stated by the repository",
        }
    }

    /// What it means for whoever downloads the model, one line each.
    pub(crate) fn meaning(&self, model: &HubId, endpoint: &str) -> Vec<String> {
        let page = format!("{endpoint}/{}", model.repo());
        match self.id.as_deref() {
            Some("cc-by-nc-4.0") => {
                let owner = match model.org() {
                    "jinaai" => "Jina AI (Jina AI GmbH)".to_owned(),
                    org => format!("the owner of the weights (published by `{org}`)"),
                };
                vec![
                    "you may use, share and adapt the weights, with attribution, for purposes \
                     that are not commercial"
                        .into(),
                    format!("commercial use needs the permission of {owner}"),
                    "the licence covers the weights; Quintet's own code is Apache-2.0".into(),
                    "text: https://creativecommons.org/licenses/by-nc/4.0/legalcode".into(),
                ]
            }
            Some(_) => vec![format!("terms: see the model's page, {page}")],
            None => vec![format!(
                "nothing may be assumed to be allowed; ask its owner, see {page}"
            )],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn license(id: Option<&str>) -> License {
        License {
            id: id.map(str::to_owned),
        }
    }

    #[test]
    fn the_non_commercial_licence_is_explained() {
        let model = HubId::parse("jinaai/jina-embeddings-v3").unwrap();
        let license = license(Some("cc-by-nc-4.0"));
        assert!(license.name().starts_with("CC BY-NC 4.0"));
        let text = license.meaning(&model, "https://huggingface.co").join("\n");
        assert!(text.contains("not commercial"), "{text}");
        assert!(text.contains("Jina AI"), "{text}");
    }

    #[test]
    fn an_unknown_or_missing_licence_points_to_the_page() {
        let model = HubId::parse("org/name").unwrap();
        for id in [Some("other"), None] {
            let text = license(id)
                .meaning(&model, "https://hub.example")
                .join("\n");
            assert!(text.contains("https://hub.example/org/name"), "{text}");
        }
        assert_eq!(license(None).name(), "not stated by the repository");
    }
}
