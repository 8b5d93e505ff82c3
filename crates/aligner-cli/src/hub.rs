//! `--model org/name[@revision]`: a model of the Hugging Face Hub.

use std::path::{Path, PathBuf};

use aligner_hub::{Files, Hub, ModelRef, Progress};
use indicatif::ProgressBar;

use crate::error::{CliError, Result};
use crate::terminal::byte_progress;

/// The directory of a model as it was typed: a path that exists, else a model of the Hub, which is fetched when it is not in
/// the cache. What is neither stays as it is: whoever opens it says what is wrong.
pub fn local(typed: &Path, wanted: Files) -> Result<PathBuf> {
    let Some(model) = hub_name(typed)? else {
        return Ok(typed.to_path_buf());
    };
    let mut bar = Bar::default();
    let found =
        Hub::from_env().and_then(|hub| hub.resolve(&model, wanted, &mut |progress| bar.show(progress)));
    bar.clear();
    found.map_err(wrong(typed))
}

/// What a model is called, without where it lies or which revision it is.
pub fn short_name(typed: &Path) -> String {
    match hub_name(typed) {
        Ok(Some(model)) => model.name().to_string(),
        _ => typed
            .file_name()
            .unwrap_or("run".as_ref())
            .to_string_lossy()
            .into_owned(),
    }
}

fn hub_name(typed: &Path) -> Result<Option<ModelRef>> {
    let Some(text) = typed.to_str().filter(|_| !typed.exists()) else {
        return Ok(None);
    };
    match ModelRef::parse(text) {
        Ok(model) => Ok(Some(model)),
        // Nobody writes a path so.
        Err(error) if text.contains('@') && !text.starts_with(['/', '.']) => Err(wrong(typed)(error)),
        Err(_) => Ok(None),
    }
}

fn wrong(typed: &Path) -> impl FnOnce(aligner_hub::HubError) -> CliError {
    let typed = typed.display().to_string();
    move |source| CliError::Hub { typed, source }
}

/// A bar for the file that is being fetched.
#[derive(Default)]
struct Bar {
    file: String,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn show(&mut self, progress: Progress<'_>) {
        if self.file != progress.file {
            self.clear();
            self.file = progress.file.to_string();
        }
        let bar = self
            .bar
            .get_or_insert_with(|| byte_progress(progress.total_bytes, progress.file));
        bar.set_position(progress.done_bytes);
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
