//! The GGUF format of llama.cpp: reading a model's tensors, configuration and tokenizer.
//!
//! ```text
//!  model.gguf ──▶ GgufFile ──▶ GgufSource          tensors by Hugging Face name, as f32     (names, dequant)
//!                    ├───────▶ hf_config           a config.json                            (config, rope)
//!                    └───────▶ tokenizer_files     tokenizer.json, tokenizer_config.json, … (tokenizer)
//! ```
//!
//! [`import`] makes a Hugging Face directory of all three.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Versions 2 and 3, little-endian. A file may come
//! from anywhere: what does not add up is [`ModelError::Weights`], and nothing is allocated that the file's size does not
//! justify.

mod config;
mod dequant;
mod header;
mod import;
mod names;
mod rope;
mod tokenizer;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use config::hf_config;
pub use dequant::GgmlType;
pub use header::GgufTensor;
pub use import::{Imported, import};
pub use names::GgufSource;
pub use tokenizer::tokenizer_files;
pub use value::{GgufArray, GgufValue};

use self::header::Header;
use super::HostTensor;
use crate::error::{ModelError, Result};

/// What a GGUF file is read from.
trait Storage: Read + Seek + Send {}

impl<T: Read + Seek + Send> Storage for T {}

/// A GGUF file whose header has been read; tensors are read one at a time.
pub struct GgufFile {
    path: PathBuf,
    /// Behind a lock because reading moves its one position.
    storage: Mutex<Box<dyn Storage>>,
    header: Header,
}

impl fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufFile")
            .field("path", &self.path)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl GgufFile {
    /// Opens a file and reads its metadata and where its tensors lie.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or holds a type of tensor that is not read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(ModelError::io("read", path))?;
        Self::from_reader(file, path)
    }

    /// The same from anything that can be read, for example bytes in memory; `path` is for messages.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn from_reader(mut reader: impl Read + Seek + Send + 'static, path: &Path) -> Result<Self> {
        let io = || ModelError::io("read", path);
        let size = reader.seek(SeekFrom::End(0)).map_err(io())?;
        reader.rewind().map_err(io())?;
        let header = Header::read(BufReader::with_capacity(1 << 16, &mut reader), size, path)?;
        Ok(Self {
            path: path.to_path_buf(),
            storage: Mutex::new(Box::new(reader)),
            header,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.header.metadata
    }

    /// Tensors by the names they have in the file.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.header.tensors
    }

    /// A tensor by the name it has in the file, as it is stored: rows are not put back into Hugging Face's order, which
    /// [`GgufSource`] does. `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or an element is no number.
    pub fn read_tensor(&self, name: &str) -> Result<Option<HostTensor>> {
        let Some(tensor) = self.header.tensors.get(name) else {
            return Ok(None);
        };
        // The header's reader has checked that the file has so many bytes.
        let mut bytes = vec![0; tensor.bytes as usize];
        let mut storage = self.storage.lock().unwrap_or_else(PoisonError::into_inner);
        storage
            .seek(SeekFrom::Start(tensor.start))
            .and_then(|_| storage.read_exact(&mut bytes))
            .map_err(ModelError::io("read", &self.path))?;
        drop(storage);
        let values = tensor.kind.to_f32(&bytes);
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(self.error(format!("tensor {name} holds {} at element {at}", values[at])));
        }
        Ok(Some(HostTensor {
            shape: tensor.shape.clone(),
            values,
        }))
    }

    fn error(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Weights {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// What `convert` makes of the value of a key; `None` when the key is absent.
    fn value<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        convert: impl FnOnce(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>> {
        self.header
            .metadata
            .get(key)
            .map(|value| convert(value).ok_or_else(|| self.error(format!("metadata {key} is not {what}"))))
            .transpose()
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        self.value(key, "a text", GgufValue::as_str)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.value(key, "true or false", GgufValue::as_bool)
    }

    fn float(&self, key: &str) -> Result<Option<f64>> {
        let finite = |value: &GgufValue| value.as_f64().filter(|number| number.is_finite());
        self.value(key, "a finite number", finite)
    }

    /// A number that some files give once for each layer; all layers must agree.
    fn count(&self, key: &str) -> Result<Option<u64>> {
        let one = |value: &GgufValue| match value.as_array() {
            None => value.as_u64(),
            Some(array) => {
                let numbers = array.numbers()?;
                let first = *numbers.first()?;
                let alike = numbers.iter().all(|&number| number == first);
                (alike && first >= 0.0 && first.fract() == 0.0).then_some(first as u64)
            }
        };
        self.value(key, "one whole number, the same for all layers", one)
    }

    fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.value(key, "a list of texts", |value| value.as_array()?.strings())
    }

    fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.value(key, "a list of numbers", |value| value.as_array()?.numbers())
    }

    fn missing(&self, key: &str) -> ModelError {
        self.error(format!("has no metadata {key}"))
    }
}
