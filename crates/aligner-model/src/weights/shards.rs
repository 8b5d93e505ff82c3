//! A model in one file or several, whatever their format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::map::MappedFile;
use super::{HostTensor, ShardIndex};
use crate::error::{ModelError, Result};

/// One file of weights.
pub(super) trait Shard: Sized {
    /// Reads what the file says it holds.
    fn parse(file: MappedFile) -> Result<Self>;

    fn file(&self) -> &MappedFile;

    /// The names of its tensors.
    fn names(&self) -> impl Iterator<Item = &str>;

    /// A tensor, its two dimensions exchanged when `transposed` and it is a matrix.
    fn read(&mut self, name: &str, transposed: bool) -> Result<Option<HostTensor>>;
}

/// Tensors of one file or of several.
#[derive(Debug)]
pub(super) struct Shards<S> {
    origin: PathBuf,
    shards: Vec<S>,
    /// Tensor name → shard.
    places: BTreeMap<String, usize>,
}

impl<S: Shard> Shards<S> {
    /// Opens `dir/single`, or the files that `dir/index` names; `None` when there is neither.
    pub fn in_dir(dir: &Path, single: &str, index: &str) -> Result<Option<Self>> {
        let (single, index) = (dir.join(single), dir.join(index));
        if single.is_file() {
            let shard = S::parse(MappedFile::open(&single)?)?;
            return Self::new(dir, vec![shard]).map(Some);
        }
        if !index.is_file() {
            return Ok(None);
        }
        let index = ShardIndex::read(&index)?;
        let open = |name: &String| S::parse(MappedFile::open(&dir.join(name))?);
        let shards = Self::new(dir, index.files().iter().map(open).collect::<Result<_>>()?)?;
        for (tensor, file) in index.tensors() {
            if shards.places.get(tensor) != Some(&file) {
                let reason = format!(
                    "says that {} holds {tensor}, but it does not",
                    index.files()[file]
                );
                return Err(ModelError::weights(index.path(), reason));
            }
        }
        Ok(Some(shards))
    }

    /// One file of any name.
    pub fn one(file: MappedFile) -> Result<Self> {
        let path = file.path().to_path_buf();
        Self::new(&path, vec![S::parse(file)?])
    }

    fn new(origin: &Path, shards: Vec<S>) -> Result<Self> {
        let mut places = BTreeMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for name in shard.names() {
                if let Some(other) = places.insert(name.to_string(), index) {
                    let other: &S = &shards[other];
                    let reason = format!("tensor {name} is also in {}", other.file().path().display());
                    return Err(ModelError::weights(shard.file().path(), reason));
                }
            }
        }
        Ok(Self {
            origin: origin.to_path_buf(),
            shards,
            places,
        })
    }

    pub fn read(&mut self, name: &str, transposed: bool) -> Result<Option<HostTensor>> {
        match self.places.get(name) {
            Some(&shard) => self.shards[shard].read(name, transposed),
            None => Ok(None),
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    pub fn path(&self) -> &Path {
        &self.origin
    }
}

/// The error of a tensor with a value that is no number.
pub(super) fn not_finite(path: &Path, name: &str, (at, value): (usize, f32)) -> ModelError {
    ModelError::weights(path, format!("tensor {name} holds {value} at element {at}"))
}
