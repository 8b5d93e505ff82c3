//! Checkpoints: complete, checked, or not there.
//!
//! A checkpoint is a directory `step-00000120` that holds the weights, the optimizer's moments and `checkpoint.json`: the
//! run's state with the size and SHA-256 of every other file. It is written under a temporary name, synced, and renamed
//! last, so that a crash at any moment leaves either the whole set or nothing that carries its name.

mod files;
mod state;

use std::path::{Path, PathBuf};

pub use files::{recover_dir, replace_dir};
pub use state::{Best, RunState};

use crate::error::{Result, TrainError};
use files::{FileRecord, Manifest, write_json};

const MANIFEST: &str = "checkpoint.json";
const PREFIX: &str = "step-";

/// The checkpoints of one run.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    dir: PathBuf,
    keep: usize,
}

/// A checkpoint whose files are all there and unchanged.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The directory.
    pub dir: PathBuf,
    /// The run's state.
    pub state: RunState,
    /// Whether that is what lies in the directory: a run may go on otherwise than it was left.
    pub is_as_saved: bool,
}

/// What looking for a checkpoint found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The newest usable one.
    pub checkpoint: Option<Checkpoint>,
    /// Newer ones that are damaged, with what is wrong: `step-00000120: model.safetensors: …`.
    pub damaged: Vec<String>,
}

impl CheckpointStore {
    /// The checkpoints under `dir`, of which the newest `keep` (at least one) are kept.
    pub fn new(dir: impl Into<PathBuf>, keep: usize) -> Self {
        Self {
            dir: dir.into(),
            keep: keep.max(1),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes what a killed process left unfinished.
    ///
    /// # Errors
    /// When the directory cannot be read or changed.
    pub fn clean(&self) -> Result<()> {
        for path in self.entries()? {
            if path
                .extension()
                .is_some_and(|extension| extension == "part" || extension == "old")
            {
                recover_dir(&path.with_extension(""))?;
            }
        }
        Ok(())
    }

    /// Saves a checkpoint: `fill` writes the files into the directory it is given.
    ///
    /// # Errors
    /// When something cannot be written. The checkpoints before this one are untouched then.
    pub fn save(&self, state: &RunState, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.dir).map_err(TrainError::io("create", &self.dir))?;
        let place = self.dir.join(format!("{PREFIX}{:08}", state.step));
        replace_dir(&place, |dir| {
            fill(dir)?;
            let mut files = Vec::new();
            for path in files::list(dir)? {
                files.push(FileRecord::of(&path)?);
            }
            write_json(
                &dir.join(MANIFEST),
                &Manifest {
                    state: state.clone(),
                    files,
                },
            )
        })?;
        self.retire(state.step)?;
        Ok(place)
    }

    /// The newest usable checkpoint, and the damaged ones that are newer.
    ///
    /// # Errors
    /// When the directory cannot be read. Damage is not an error here: it is reported.
    pub fn latest(&self) -> Result<Found> {
        let mut found = Found::default();
        for dir in self.checkpoints()?.into_iter().rev() {
            match Self::verify(&dir) {
                Ok(state) => {
                    found.checkpoint = Some(Checkpoint {
                        dir,
                        state,
                        is_as_saved: true,
                    });
                    break;
                }
                Err(reason) => {
                    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    found.damaged.push(format!("{name}: {reason}"));
                }
            }
        }
        Ok(found)
    }

    fn verify(dir: &Path) -> Result<RunState, String> {
        let path = dir.join(MANIFEST);
        let bytes = std::fs::read(&path).map_err(|error| format!("{MANIFEST}: {error}"))?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| format!("{MANIFEST}: {error}"))?;
        manifest.files.iter().try_for_each(|file| file.verify(dir))?;
        Ok(manifest.state)
    }

    /// Removes all but the newest `keep` up to the one of `step`.
    ///
    /// Those of later steps were damaged, or the run would not stand here: they must not push a good one out. The run
    /// replaces them when it comes to their steps.
    fn retire(&self, step: u64) -> Result<()> {
        let newest = self.dir.join(format!("{PREFIX}{step:08}"));
        let mut all = self.checkpoints()?;
        if let Some(index) = all.iter().position(|dir| *dir == newest) {
            all.truncate(index + 1);
        }
        for dir in &all[..all.len().saturating_sub(self.keep)] {
            // Renamed first: a half-removed checkpoint must not look like a damaged one.
            let old = dir.with_extension("old");
            std::fs::rename(dir, &old).map_err(TrainError::io("remove", dir))?;
            std::fs::remove_dir_all(&old).map_err(TrainError::io("remove", &old))?;
        }
        Ok(())
    }

    /// Finished checkpoints, oldest first.
    fn checkpoints(&self) -> Result<Vec<PathBuf>> {
        let mut dirs: Vec<(u64, PathBuf)> = self
            .entries()?
            .into_iter()
            .filter_map(|path| {
                let step = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
                Some((step, path))
            })
            .collect();
        dirs.sort();
        Ok(dirs.into_iter().map(|(_, path)| path).collect())
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        if !self.dir.is_dir() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&self.dir).map_err(TrainError::io("read", &self.dir))?;
        entries
            .map(|entry| Ok(entry.map_err(TrainError::io("read", &self.dir))?.path()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(store: &CheckpointStore, step: u64, content: &[u8]) {
        let state = RunState {
            step,
            ..RunState::default()
        };
        store
            .save(&state, |dir| {
                std::fs::write(dir.join("model.bin"), content).map_err(TrainError::io("write", dir))
            })
            .unwrap();
    }

    #[test]
    fn the_newest_is_found_and_old_ones_are_retired() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path().join("c"), 2);
        assert!(store.latest().unwrap().checkpoint.is_none());
        for step in [5, 10, 100] {
            save(&store, step, b"weights");
        }
        let found = store.latest().unwrap();
        assert_eq!(found.checkpoint.unwrap().state.step, 100);
        assert_eq!(std::fs::read_dir(store.dir()).unwrap().count(), 2);
    }

    #[test]
    fn a_damaged_one_is_named_and_the_one_before_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path(), 3);
        for step in [1, 2, 3] {
            save(&store, step, b"weights");
        }
        std::fs::write(dir.path().join("step-00000003/model.bin"), b"weightz").unwrap();
        std::fs::write(dir.path().join("step-00000002/checkpoint.json"), b"{").unwrap();
        let found = store.latest().unwrap();
        assert_eq!(found.checkpoint.unwrap().state.step, 1);
        assert!(
            found.damaged[0].contains("step-00000003: model.bin"),
            "{:?}",
            found.damaged
        );
        assert!(
            found.damaged[1].contains("step-00000002: checkpoint.json"),
            "{:?}",
            found.damaged
        );
    }

    #[test]
    fn a_missing_or_short_file_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path(), 3);
        save(&store, 1, b"weights");
        std::fs::write(dir.path().join("step-00000001/model.bin"), b"weigh").unwrap();
        assert!(store.latest().unwrap().damaged[0].contains("5 bytes instead of 7"));
        std::fs::remove_file(dir.path().join("step-00000001/model.bin")).unwrap();
        assert!(store.latest().unwrap().checkpoint.is_none());
    }

    #[test]
    fn a_save_that_fails_leaves_the_others_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path(), 1);
        save(&store, 1, b"weights");
        let state = RunState {
            step: 2,
            ..RunState::default()
        };
        let failed = store.save(&state, |dir| {
            std::fs::write(dir.join("half"), b"x").unwrap();
            Err(TrainError::Learner("disk full".into()))
        });
        assert!(failed.is_err());
        assert!(
            !dir.path().join("step-00000002.part").exists(),
            "a full disk gets its space back"
        );
        assert_eq!(store.latest().unwrap().checkpoint.unwrap().state.step, 1);
        store.clean().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_newer_checkpoint_does_not_push_a_good_one_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path(), 1);
        save(&store, 3, b"weights");
        std::fs::create_dir(dir.path().join("step-00000009")).unwrap();
        // The run went on from step 3 and was stopped before step 9.
        save(&store, 5, b"weights");
        let found = store.latest().unwrap();
        assert_eq!(found.checkpoint.unwrap().state.step, 5);
        assert_eq!(found.damaged.len(), 1);
        save(&store, 9, b"weights");
        assert_eq!(store.latest().unwrap().checkpoint.unwrap().state.step, 9);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_crash_between_two_renames_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path(), 1);
        save(&store, 4, b"one");
        let place = dir.path().join("step-00000004");
        std::fs::rename(&place, place.with_extension("old")).unwrap();
        std::fs::create_dir(place.with_extension("part")).unwrap();
        store.clean().unwrap();
        assert_eq!(store.latest().unwrap().checkpoint.unwrap().state.step, 4);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_same_step_can_be_saved_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path(), 2);
        save(&store, 4, b"one");
        save(&store, 4, b"two");
        let found = store.latest().unwrap().checkpoint.unwrap();
        assert_eq!(std::fs::read(found.dir.join("model.bin")).unwrap(), b"two");
    }
}
