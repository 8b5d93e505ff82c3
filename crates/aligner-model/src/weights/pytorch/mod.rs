//! PyTorch's `pytorch_model.bin`: what `torch.save(model.state_dict(), …)` writes since PyTorch 1.6.
//!
//! Such a file is a zip archive of stored (not compressed) entries: `*/data.pkl`, a pickle that describes the tensors,
//! and `*/data/N`, the bytes of one storage each. A pickle is a program; the one here is run by an interpreter that knows
//! dictionaries, tuples, numbers, text and the few functions of PyTorch that describe a tensor. Everything else is
//! refused by name: **nothing is ever imported or executed**, whatever the file says.
//!
//! The readers of zip and pickle are this crate's own because each is small once it knows only what is needed here, and
//! because what they refuse matters more than what they accept. General readers decompress, follow any pickle into a tree
//! of values, or copy a storage before it is looked at; these give places in the mapped file, work in memory that the
//! length of the pickle bounds, and use no recursion. Checksums of entries are not compared: that would read every weight
//! twice, and the safetensors format has none either.

mod pickle;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use self::pickle::Stored;
use super::map::{MappedFile, what_else};
use super::shards::{Shard, Shards};
use super::view::{Element, View};
use super::{Bands, HostTensor, TensorSource};
use crate::error::{ModelError, Result};

const SINGLE: &str = "pytorch_model.bin";
const INDEX: &str = "pytorch_model.bin.index.json";
/// The beginning of a file that PyTorch before 1.6 wrote: a pickled magic number.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19";

/// Tensors of a directory's PyTorch files, which are mapped into memory.
#[derive(Debug)]
pub struct PytorchSource(Shards<PytorchFile>);

#[derive(Debug)]
struct PytorchFile {
    file: MappedFile,
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor's elements lie.
#[derive(Debug)]
struct Place {
    /// The type as PyTorch calls it, and as this crate reads it, if it does.
    dtype: (&'static str, Option<Element>),
    /// From the first element to the end of the storage, in the file.
    range: Range<usize>,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl PytorchSource {
    /// Opens `dir/pytorch_model.bin`, or the shards that `dir/pytorch_model.bin.index.json` names.
    ///
    /// # Errors
    /// When there is neither, or a file is damaged, of the format before PyTorch 1.6, or more than a state dict.
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
    /// As [`open`](Self::open).
    pub fn open_file(path: &Path) -> Result<Self> {
        Shards::one(MappedFile::open(path)?).map(Self)
    }

    /// Reads a file that is in memory; `path` stands for it in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Shards::one(MappedFile::from_bytes(path, bytes)).map(Self)
    }
}

impl Shard for PytorchFile {
    fn parse(mut file: MappedFile) -> Result<Self> {
        let tensors = places(file.bytes()).map_err(|reason| ModelError::weights(file.path(), reason))?;
        // Every entry has a header before its bytes: looking at them has mapped a share of the whole file.
        file.release(0..file.bytes().len());
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
        let Some(place) = self.tensors.get(name) else {
            return Ok(None);
        };
        let path = self.file.path();
        let (dtype, element) = place.dtype;
        let element = element.ok_or_else(|| {
            let reason = format!("tensor {name} is {dtype}; supported are Float, Half, BFloat16, Double");
            ModelError::weights(path, reason)
        })?;
        let bytes = self.file.bytes().get(place.range.clone());
        let view = bytes.and_then(|bytes| View::strided(element, bytes, &place.shape, &place.strides));
        let view = view.ok_or_else(|| ModelError::weights(path, outside(name)))?;
        Ok(Some((view, place.range.clone())))
    }
}

fn outside(name: &str) -> String {
    format!("tensor {name} reaches outside of its storage or shows an element of it more than once")
}

/// The tensors of a file, each checked against the storage that it lies in.
fn places(file: &[u8]) -> Result<BTreeMap<String, Place>, String> {
    if file.starts_with(LEGACY) {
        return Err("is in the format of PyTorch before 1.6; convert it with Python: \
                    import torch; torch.save(torch.load(FILE, map_location='cpu'), FILE)"
            .into());
    }
    if !file.starts_with(zip::MAGIC) {
        return Err(format!("is no file of torch.save{}", what_else(file)));
    }
    let entries = zip::entries(file).map_err(|reason| format!("is a damaged archive: {reason}"))?;
    let (folder, pickle) = pickle_of(&entries)?;
    let entry = |name: &str| {
        entries
            .get(&format!("{folder}{name}"))
            .map(|range| &file[range.clone()])
    };
    match entry("byteorder") {
        None | Some(b"little") => {}
        Some(other) => {
            let order = String::from_utf8_lossy(&other[..other.len().min(16)]);
            return Err(format!("has byte order {order:?}; supported is little"));
        }
    }
    let state =
        pickle::state_dict(&file[pickle]).map_err(|reason| format!("has a data.pkl that {reason}"))?;
    let mut tensors = BTreeMap::new();
    for (name, stored) in state {
        let storage = entries.get(&format!("{folder}data/{}", stored.key));
        let storage =
            storage.ok_or_else(|| format!("lacks data/{}, where tensor {name} lies", stored.key))?;
        tensors.insert(
            name.to_string(),
            place(file, storage, stored).ok_or_else(|| outside(name))?,
        );
    }
    Ok(tensors)
}

/// The folder of the archive and its `data.pkl`.
fn pickle_of(entries: &BTreeMap<String, Range<usize>>) -> Result<(&str, Range<usize>), String> {
    let mut found = entries.iter().filter_map(|(name, range)| {
        let folder = name.strip_suffix("data.pkl")?;
        (folder.ends_with('/') && folder.matches('/').count() == 1).then(|| (folder, range.clone()))
    });
    match (found.next(), found.next()) {
        (Some((folder, _)), None) if entries.contains_key(&format!("{folder}constants.pkl")) => {
            Err("is a TorchScript program; save the model's state_dict() instead".into())
        }
        (Some(one), None) => Ok(one),
        (None, _) => Err("is an archive without data.pkl, so not of torch.save".into()),
        (Some((first, _)), Some((second, _))) => {
            Err(format!("has two pickles, {first}data.pkl and {second}data.pkl"))
        }
    }
}

fn place(file: &[u8], storage: &Range<usize>, stored: Stored<'_>) -> Option<Place> {
    let size = stored.dtype.size;
    if stored.numel.checked_mul(size)? != storage.len() {
        return None;
    }
    let start = storage.start.checked_add(stored.offset.checked_mul(size)?)?;
    let range = start..storage.end;
    let bytes = file.get(range.clone())?;
    if let Some(element) = stored.dtype.element {
        View::strided(element, bytes, &stored.shape, &stored.strides)?;
    }
    Some(Place {
        dtype: (stored.dtype.name, stored.dtype.element),
        range,
        shape: stored.shape,
        strides: stored.strides,
    })
}

impl TensorSource for PytorchSource {
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
