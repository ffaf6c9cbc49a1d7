//! Which adapter a text is embedded with: the five tasks, custom adapters by name, or none.

use crate::weights::Adapter;

/// The name that means "no adapter, no instruction": the base model.
pub const RAW: &str = "raw";

/// A task of one loaded model: its place in the table of adapters, or `raw`.
///
/// Made by [`crate::Embedder::task`], so it always names an adapter that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Task(Option<u16>);

impl Task {
    /// The base model: no adapter, no instruction.
    pub const RAW: Self = Self(None);

    /// Index into the model's adapters, `None` for the base model.
    pub(crate) fn adapter(self) -> Option<usize> {
        self.0.map(usize::from)
    }
}

/// A task was named that the model does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model has no task `{name}`, expected {}", expected(.known))]
pub struct UnknownTask {
    /// What was asked for.
    pub name: String,
    /// Tasks that the model has, without `raw`.
    pub known: Vec<String>,
}

impl UnknownTask {
    /// What the user can do next.
    pub fn hint(&self) -> Option<&'static str> {
        let five = crate::config::TASK_NAMES.contains(&self.name.as_str());
        (self.known.is_empty() && five).then_some(
            "these are base weights without adapters; use `raw`, or a checkpoint that has the adapters",
        )
    }
}

fn expected(known: &[String]) -> String {
    let names = known.iter().map(String::as_str).chain([RAW]);
    let quoted: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// Finds `name` among `adapters`; `raw` is the base model.
pub(crate) fn find(adapters: &[Adapter], name: &str) -> Result<Task, UnknownTask> {
    if name == RAW {
        return Ok(Task::RAW);
    }
    adapters
        .iter()
        .position(|adapter| adapter.name == name)
        .and_then(|index| u16::try_from(index).ok())
        .map(|index| Task(Some(index)))
        .ok_or_else(|| UnknownTask {
            name: name.to_owned(),
            known: adapters
                .iter()
                .map(|adapter| adapter.name.clone())
                .collect(),
        })
}
