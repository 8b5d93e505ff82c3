//! Where runs lie, and which is the latest.

use std::path::{Path, PathBuf};

use aligner_hub::Files;
use aligner_model::LoraAdapter;
use aligner_train::RunDir;

use crate::error::{CliError, Result};
use crate::hub;

/// The folder of all runs that were not given another place.
const RUNS: &str = "runs";
/// Names the latest of them.
const LATEST: &str = "latest";

/// A directory for a run called `name` that nothing lies in yet: `runs/name`, `runs/name-2`, …
pub fn free_dir(name: &str) -> PathBuf {
    let runs = Path::new(RUNS);
    let first = runs.join(name);
    if is_free(&first) {
        return first;
    }
    (2u32..)
        .map(|number| runs.join(format!("{name}-{number}")))
        .find(|dir| is_free(dir))
        .unwrap_or(first)
}

/// Whether it is not there, or has no more than the lock of a run that was refused.
fn is_free(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().all(|entry| entry.file_name() == ".lock"),
        Err(_) => !dir.exists(),
    }
}

/// Remembers a run as the latest.
pub fn remember(run: &Path) {
    let absolute = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
    let noted = std::fs::create_dir_all(RUNS).and_then(|()| {
        std::fs::write(
            Path::new(RUNS).join(LATEST),
            absolute.to_string_lossy().as_bytes(),
        )
    });
    if let Err(error) = noted {
        tracing::warn!(%error, "cannot note the latest run; name it with --model or --out");
    }
}

/// The latest run.
pub fn latest() -> Result<PathBuf> {
    let note = Path::new(RUNS).join(LATEST);
    match std::fs::read_to_string(&note) {
        Ok(path) if !path.trim().is_empty() => Ok(PathBuf::from(path.trim())),
        _ => Err(CliError::Usage(
            "there is no run here yet: name a model with --model, or make one with `aligner train`".into(),
        )),
    }
}

/// What a model is called: as its directory, or as the run that it ended.
pub fn model_name(dir: &Path) -> String {
    let own = |dir: &Path| dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let named = match own(dir) {
        Some(name) if name == "final" => dir.parent().and_then(own),
        named => named,
    };
    named.unwrap_or_else(|| "aligner".into())
}

/// The model to use: the one named (the directory of a model or an adapter, a run, or a model of the Hub), or the latest
/// run's.
pub fn model_dir(named: Option<&Path>, wanted: Files) -> Result<PathBuf> {
    let place = match named {
        Some(named) => hub::local(named, wanted)?,
        None => latest()?,
    };
    if place.join("config.json").is_file() || LoraAdapter::is_in(&place) {
        return Ok(place);
    }
    let run = RunDir::new(&place);
    if run.finished().is_dir() {
        return Ok(run.finished());
    }
    let state = if run.config().is_file() {
        "a run that is not finished"
    } else {
        "no model directory"
    };
    Err(CliError::Usage(format!(
        "{} is {state}: it has no config.json and no final/",
        place.display()
    )))
}
