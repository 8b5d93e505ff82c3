//! What corrections, answers and scores depend on, as `eval.json` has it.

use std::path::{Path, PathBuf};

use aligner_eval::facts;
use aligner_model::{LoraAdapter, weights_fingerprint};
use serde_json::{Map, Value};

use crate::commands::fetched_base;
use crate::error::Result;

/// Files that say how texts become tokens and conversations are written.
const TEXT_FILES: [&str; 4] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// A model by its weights, those under an adapter too, and by what makes tokens of its texts.
pub fn model(dir: &Path) -> Result<Value> {
    let mut known = Map::new();
    known.insert("weights".into(), weights_fingerprint(dir)?.into());
    if let Some(base) = base(dir)? {
        known.insert("base".into(), model(&base)?);
    }
    for path in TEXT_FILES.map(|name| dir.join(name)) {
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            known.insert(name.into_owned(), facts::file(&path)?["sha256"].clone());
        }
    }
    Ok(known.into())
}

/// The model that an adapter is over.
fn base(dir: &Path) -> Result<Option<PathBuf>> {
    match fetched_base(dir)? {
        Some(base) => Ok(Some(base)),
        None if LoraAdapter::is_in(dir) => Ok(Some(LoraAdapter::read(dir)?.base_dir(dir)?)),
        None => Ok(None),
    }
}
