//! What a run directory says besides its records: configuration, state, lineage.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::lines::beginning;

const MOST_BYTES: u64 = 256 << 10;

/// Everything that is no curve. What cannot be read is left out: a run that is going on, or was damaged, has a page too.
#[derive(Debug, Default)]
pub struct Facts {
    /// What the run is called: its directory's name.
    pub name: String,
    /// Its place, as it was given.
    pub place: PathBuf,
    /// `run.toml`.
    pub config: Option<String>,
    /// `aligner.json` of the finished model, or of the newest that there is.
    pub manifest: Option<Map<String, Value>>,
    /// Whether there is a finished model.
    pub is_finished: bool,
    /// Steps of the whole run.
    pub total_steps: Option<u64>,
    /// Step of the newest checkpoint.
    pub checkpoint_step: Option<u64>,
}

/// The part of `checkpoint.json` that is told.
#[derive(Deserialize)]
struct Checkpoint {
    state: State,
}

#[derive(Deserialize)]
struct State {
    step: u64,
    total_steps: u64,
}

impl Facts {
    /// Reads what there is.
    pub fn read(run: &Path) -> Self {
        let absolute = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
        let name = absolute.file_name().unwrap_or_default();
        let finished = run.join("final");
        let newest = newest_checkpoint(&run.join("checkpoints"));
        let state = newest.as_ref().and_then(|(_, dir)| {
            let text = beginning(&dir.join("checkpoint.json"), 4 << 20)?;
            Some(serde_json::from_str::<Checkpoint>(&text).ok()?.state)
        });
        let places = [Some(&finished), newest.as_ref().map(|(_, dir)| dir)];
        let manifest = places.into_iter().flatten().find_map(|dir| {
            let text = beginning(&dir.join("aligner.json"), 4 << 20)?;
            serde_json::from_str(&text).ok()
        });
        Self {
            name: name.to_string_lossy().into_owned(),
            place: run.to_path_buf(),
            config: beginning(&run.join("run.toml"), MOST_BYTES),
            manifest,
            is_finished: finished.is_dir(),
            total_steps: state.as_ref().map(|state| state.total_steps),
            checkpoint_step: state.as_ref().map(|state| state.step),
        }
    }
}

fn newest_checkpoint(dir: &Path) -> Option<(u64, PathBuf)> {
    let entries = std::fs::read_dir(dir).ok()?;
    let numbered = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
        Some((step, path))
    });
    numbered.max()
}
