//! What is known about models: one TOML file each, built in, overridden and added to by an operator's
//! folder.
//!
//! - `entry`: the fields of a file; `checks`: what no type can say
//! - `read`: files to entries, an operator's over the built-in ones
//! - `license`: what weights may be used for, and where a price becomes active

mod checks;
mod entry;
mod license;
mod read;

pub use entry::{
    Architecture, Availability, Axis, Benchmark, Entry, Faq, Languages, Link, PublishedPrice,
    Score, Status, TaskUse,
};
pub use license::{License, LicenseError};
pub use read::CatalogueError;

/// All entries, in the order of their pages.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue {
    entries: Vec<Entry>,
}

impl Default for Catalogue {
    /// The built-in entries.
    fn default() -> Self {
        Self::built_in()
    }
}

impl Catalogue {
    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of an id, such as `jinaai/jina-embeddings-v3`.
    pub fn entry(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// The entry of a model by the name it was located under: an id, an alias, or a path that ends in
    /// one. Models that this program cannot run are not found, so that nothing is served under their
    /// facts.
    pub fn runnable(&self, name: &str) -> Option<&Entry> {
        let last = name.rsplit(['/', '\\']).find(|part| !part.is_empty());
        let entries = || {
            let runnable = |entry: &&Entry| entry.availability == Availability::Runnable;
            self.entries.iter().filter(runnable)
        };
        entries()
            .find(|entry| entry.is_called(name))
            .or_else(|| entries().find(|entry| last.is_some_and(|last| entry.is_called(last))))
    }

    /// The same; a model that nobody has written about gets an entry with its name and nothing else.
    pub fn entry_or_unlisted(&mut self, name: &str) -> &mut Entry {
        let known = self.runnable(name).map(|entry| entry.id.clone());
        let id = known.unwrap_or_else(|| {
            let entry = Entry::unlisted(name);
            let id = entry.id.clone();
            self.entries.retain(|other| other.id != id);
            self.entries.insert(0, entry);
            id
        });
        let index = self.entries.iter().position(|entry| entry.id == id);
        &mut self.entries[index.unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_found_by_id_alias_and_folder_and_only_if_it_can_run() {
        let catalogue = Catalogue::built_in();
        let id = |name| catalogue.runnable(name).map(|entry| entry.id.as_str());
        assert_eq!(id("mini"), Some("quintet/mini"));
        for name in [
            "jinaai/jina-embeddings-v3",
            "jinaai/jina-embeddings-v3-hf",
            "/srv/models/jina-embeddings-v3",
        ] {
            assert_eq!(id(name), Some("jinaai/jina-embeddings-v3"), "{name}");
        }
        assert_eq!(id("text-embedding-3-large"), None);
        assert_eq!(id("/srv/models/checkpoint"), None);
        assert!(catalogue.entry("openai/text-embedding-3-large").is_some());
    }

    #[test]
    fn a_model_that_nobody_wrote_about_has_a_name_and_a_page() {
        let mut catalogue = Catalogue::built_in();
        let count = catalogue.entries().len();
        let entry = catalogue
            .entry_or_unlisted("/srv/my models/v3 (tuned)/")
            .clone();
        assert_eq!(
            (entry.id.as_str(), entry.name.as_str()),
            ("local/v3--tuned-", "v3 (tuned)")
        );
        assert_eq!(
            catalogue.entry_or_unlisted("/srv/my models/v3 (tuned)/"),
            &entry
        );
        assert_eq!(catalogue.entries().len(), count + 1);
        assert_eq!(catalogue.entry_or_unlisted("mini").id, "quintet/mini");
        assert_eq!(
            catalogue.entry_or_unlisted("text-embedding-3-large").id,
            "local/text-embedding-3-large"
        );
    }
}
