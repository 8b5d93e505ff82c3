//! The safetensors format: reading one file or shards, a tensor at a time; writing one file as a stream.

mod header;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;

use self::header::Info;
use super::map::{MappedFile, what_else};
use super::shards::{Shard, Shards};
use super::view::{Element, View};
use super::{Bands, HostTensor, TensorSource, WeightDtype, write_safetensors_as};
use crate::error::{ModelError, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Tensors of a directory's safetensors files, which are mapped into memory.
#[derive(Debug)]
pub struct SafetensorsSource(Shards<SafetensorsFile>);

#[derive(Debug)]
struct SafetensorsFile {
    file: MappedFile,
    tensors: BTreeMap<String, Info>,
}

impl SafetensorsSource {
    /// Opens `dir/model.safetensors`, or the shards that `dir/model.safetensors.index.json` names.
    ///
    /// # Errors
    /// When there is neither, or a header is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::find(dir)?.ok_or_else(|| ModelError::NoWeights(dir.to_path_buf()))
    }

    /// [`open`](Self::open), or `None` when the directory has no such files.
    pub(super) fn find(dir: &Path) -> Result<Option<Self>> {
        Ok(Shards::in_dir(dir, SINGLE, INDEX)?.map(Self))
    }

    /// Opens one file of any name.
    ///
    /// # Errors
    /// When the file cannot be read or its header is damaged.
    pub fn open_file(path: &Path) -> Result<Self> {
        Shards::one(MappedFile::open(path)?).map(Self)
    }

    /// Reads a file that is in memory; `path` stands for it in messages.
    ///
    /// # Errors
    /// When its header is damaged.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Shards::one(MappedFile::from_bytes(path, bytes)).map(Self)
    }
}

impl Shard for SafetensorsFile {
    fn parse(file: MappedFile) -> Result<Self> {
        let bytes = file.bytes();
        let error = |reason| ModelError::weights(file.path(), format!("{reason}{}", what_else(bytes)));
        let tensors = header::parse(bytes).map_err(error)?;
        Ok(Self { file, tensors })
    }

    fn file(&self) -> &MappedFile {
        &self.file
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn file_mut(&mut self) -> &mut MappedFile {
        &mut self.file
    }

    fn view(&self, name: &str) -> Result<Option<(View<'_>, Range<usize>)>> {
        let Some(info) = self.tensors.get(name) else {
            return Ok(None);
        };
        let path = self.file.path();
        let element = element(info.dtype).ok_or_else(|| {
            let dtype = info.dtype;
            ModelError::weights(
                path,
                format!("tensor {name} is {dtype:?}; supported are F32, F16, BF16, F64"),
            )
        })?;
        let bytes = self.file.bytes().get(info.range());
        let view = bytes.and_then(|bytes| View::row_major(element, bytes, &info.shape.0));
        let view = view.ok_or_else(|| ModelError::weights(path, format!("tensor {name} lies outside")))?;
        Ok(Some((view, info.range())))
    }
}

fn element(dtype: Dtype) -> Option<Element> {
    match dtype {
        Dtype::F32 => Some(Element::F32),
        Dtype::F16 => Some(Element::F16),
        Dtype::BF16 => Some(Element::Bf16),
        Dtype::F64 => Some(Element::F64),
        _ => None,
    }
}

impl TensorSource for SafetensorsSource {
    fn read(&mut self, name: &str) -> Result<Option<HostTensor>> {
        self.0.read(name, false)
    }

    fn read_transposed(&mut self, name: &str) -> Result<Option<HostTensor>> {
        self.0.read(name, true)
    }

    fn read_bands(&mut self, name: &str, bands: Bands<'_>) -> Result<Option<Vec<usize>>> {
        self.0.bands(name, bands)
    }

    fn shape_of(&self, name: &str) -> Result<Option<Vec<usize>>> {
        self.0.shape_of(name)
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A tensor that is read when its turn to be written comes.
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Gives the elements, row-major.
    pub read: Box<dyn FnOnce() -> Result<Vec<f32>>>,
}

impl std::fmt::Debug for NamedTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamedTensor")
            .field("name", &self.name)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// Writes `tensors` to `path` in f32, one at a time, beside its place and then renamed.
///
/// # Errors
/// When the file cannot be written or a tensor cannot be read.
pub fn write_safetensors(path: &Path, tensors: Vec<NamedTensor>) -> Result<()> {
    write_safetensors_as(path, tensors, WeightDtype::F32)
}
