//! A GGUF file → a Hugging Face model directory.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::names::{GgufSource, expected};
use super::tokenizer::{checked, text};
use super::{GgufFile, hf_config, tokenizer_files};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::weights::{NamedTensor, TensorSource, write_atomic, write_safetensors};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const MANIFEST: &str = "aligner.json";
/// The key under which a file carries the text of `aligner.json`.
const MANIFEST_KEY: &str = "aligner.manifest";
/// Files of another model that would speak for the imported one: they go when it is overwritten.
const STALE: [&str; 7] = [
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    MANIFEST,
];

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// The entry of `architectures`.
    pub architecture: String,
    /// Number of tensors.
    pub tensors: usize,
    /// How many of them were stored as which type, by ggml's names.
    pub types: BTreeMap<&'static str, usize>,
    /// Number of weights, in elements.
    pub parameters: u64,
    /// Size of the written directory, in bytes.
    pub bytes: u64,
    /// Whether the model came with `aligner.json`.
    pub has_manifest: bool,
}

/// Writes the model in a GGUF file as a Hugging Face directory: configuration, tokenizer and weights in f32, one tensor
/// in memory at a time. `aligner.json` is written when the file carries it as `aligner.manifest`; its `tokenizer_hash`
/// becomes that of the written `tokenizer.json`.
///
/// All is written beside `out` and moved there at the end, `config.json` last: an import that was interrupted leaves no
/// directory that looks like a model. With `overwrite` a model in `out` is replaced; files that are not a model's stay.
///
/// # Errors
/// When the file cannot be read or is damaged, holds a model that is not supported, or `out` holds a model already and
/// `overwrite` is not set, or holds something else.
pub fn import(file: &Path, out: &Path, overwrite: bool) -> Result<Imported> {
    check_target(out, overwrite)?;
    let file = GgufFile::open(file)?;
    let config = ModelConfig::from_map(hf_config(&file)?)?;
    let mut files: BTreeMap<&str, String> = tokenizer_files(&file)?;
    if let Some(manifest) = manifest(&file, &files)? {
        files.insert(MANIFEST, manifest);
    }
    let mut imported = Imported::of(&file, &config);
    imported.has_manifest = files.contains_key(MANIFEST);
    let source = GgufSource::new(file)?;
    check_names(&config, &source)?;

    let staging = Staging::create(out)?;
    write_safetensors(&staging.path(WEIGHTS), lazy(source))?;
    for (name, text) in &files {
        let path = staging.path(name);
        write_atomic(&path, |file| {
            std::io::Write::write_all(file, text.as_bytes()).map_err(ModelError::io("write", &path))
        })?;
    }
    config.write(&staging.0)?;
    imported.bytes = staging.move_to(out)?;
    Ok(imported)
}

impl Imported {
    fn of(file: &GgufFile, config: &ModelConfig) -> Self {
        let mut types = BTreeMap::new();
        let mut parameters = 0;
        let tensors = file.tensors().iter();
        let tensors = tensors.filter(|(name, _)| *name != super::rope::FACTORS);
        for (_, tensor) in tensors {
            *types.entry(tensor.kind.name()).or_insert(0) += 1;
            parameters += tensor.shape.iter().product::<usize>() as u64;
        }
        Self {
            architecture: config.architecture.clone(),
            tensors: types.values().sum(),
            types,
            parameters,
            bytes: 0,
            has_manifest: false,
        }
    }
}

/// `out` may be absent, empty or, when told so, a model directory.
fn check_target(out: &Path, overwrite: bool) -> Result<()> {
    let is_empty = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(ModelError::io("read", out)(error)),
    };
    let holds_model = out.join(CONFIG).exists() || out.join(WEIGHTS).exists();
    match (is_empty, holds_model, overwrite) {
        (true, ..) | (false, true, true) => Ok(()),
        (false, true, false) => Err(ModelError::ModelExists(out.to_path_buf())),
        (false, false, _) => Err(ModelError::NoModelDirectory(out.to_path_buf())),
    }
}

/// All tensors of the architecture must be there, and no others: one more is a model that computes something else.
fn check_names(config: &ModelConfig, source: &GgufSource) -> Result<()> {
    let (there, due) = (source.names(), expected(config));
    let there: BTreeSet<String> = there.into_iter().collect();
    let missing: Vec<String> = due.difference(&there).cloned().collect();
    if !missing.is_empty() {
        let path = source.path().to_path_buf();
        return Err(ModelError::MissingTensors { path, names: missing });
    }
    match there.difference(&due).next() {
        Some(extra) => {
            let architecture = &config.architecture;
            let reason = format!("has the tensor {extra}, which {architecture} does not have");
            Err(source.file().error(reason))
        }
        None => Ok(()),
    }
}

/// Every tensor, read when its turn comes.
fn lazy(source: GgufSource) -> Vec<NamedTensor> {
    let source = Rc::new(RefCell::new(source));
    let names = source.borrow().names();
    let tensor = |name: String| {
        let shape = source.borrow().shape(&name)?.to_vec();
        let (source, read_name) = (Rc::clone(&source), name.clone());
        let read = move || {
            let tensor = source.borrow_mut().read(&read_name)?;
            Ok(tensor.map(|tensor| tensor.values).unwrap_or_default())
        };
        Some(NamedTensor {
            name,
            shape,
            read: Box::new(read),
        })
    };
    names.into_iter().filter_map(tensor).collect()
}

/// The text of `aligner.json`. The hash of the tokenizer it was trained with would not be that of the file written here,
/// which encodes alike and is another file: the hash is set to the new file's.
fn manifest(file: &GgufFile, files: &BTreeMap<&str, String>) -> Result<Option<String>> {
    let Some(found) = file.text(MANIFEST_KEY)? else {
        return Ok(None);
    };
    let found = checked(file, MANIFEST_KEY, found)?;
    let mut manifest: Map<String, Value> = serde_json::from_str(found).unwrap_or_default();
    let tokenizer = files.get("tokenizer.json").map_or("", String::as_str);
    let hash = Sha256::digest(tokenizer.as_bytes());
    let hash = hash
        .iter()
        .fold("sha256:".to_string(), |text, byte| text + &format!("{byte:02x}"));
    match manifest.get_mut("tokenizer_hash") {
        Some(recorded) if *recorded != json!(hash) => *recorded = json!(hash),
        // Nothing to change: the text stays as it is, to the last space.
        _ => return Ok(Some(found.to_string())),
    }
    text(&Value::Object(manifest), true).map(Some)
}

/// A directory beside the one to be written; removed unless everything was moved.
struct Staging(PathBuf);

impl Staging {
    fn create(out: &Path) -> Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(out.file_name().unwrap_or_else(|| "model".as_ref()));
        name.push(".importing");
        let dir = match out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => parent.join(name),
            None => PathBuf::from(name),
        };
        // What an import that was killed has left.
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(ModelError::io("remove", &dir))?;
        }
        fs::create_dir_all(&dir).map_err(ModelError::io("create", &dir))?;
        Ok(Self(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Moves the files; `config.json`, without which no program takes a directory for a model, goes first and comes
    /// last. Returns their size in bytes.
    fn move_to(self, out: &Path) -> Result<u64> {
        fs::create_dir_all(out).map_err(ModelError::io("create", out))?;
        for name in [CONFIG].into_iter().chain(STALE) {
            let path = out.join(name);
            if path.exists() {
                fs::remove_file(&path).map_err(ModelError::io("remove", &path))?;
            }
        }
        let entries = fs::read_dir(&self.0).map_err(ModelError::io("read", &self.0))?;
        let names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<std::io::Result<Vec<_>>>();
        let mut names = names.map_err(ModelError::io("read", &self.0))?;
        names.sort_by_key(|name| name == CONFIG);
        let mut bytes = 0;
        for name in names {
            let (from, to) = (self.0.join(&name), out.join(&name));
            if name == CONFIG {
                sync(out)?;
            }
            bytes += fs::metadata(&from).map_err(ModelError::io("read", &from))?.len();
            fs::rename(&from, &to).map_err(ModelError::io("write", &to))?;
        }
        sync(out)?;
        Ok(bytes)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Best effort: whatever went wrong is being reported, and the next import removes it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a directory's entries durable, where the system can.
fn sync(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        let opened = fs::File::open(dir).and_then(|dir| dir.sync_all());
        opened.map_err(ModelError::io("write", dir))?;
    }
    Ok(())
}
