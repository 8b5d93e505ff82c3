//! A model in one file or several, whatever their format.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::map::MappedFile;
use super::view::View;
use super::{Bands, HostTensor, ShardIndex};
use crate::error::{ModelError, Result};

/// One file of weights.
pub(super) trait Shard: Sized {
    /// Reads what the file says it holds.
    fn parse(file: MappedFile) -> Result<Self>;

    fn file(&self) -> &MappedFile;

    fn file_mut(&mut self) -> &mut MappedFile;

    /// The names of its tensors.
    fn names(&self) -> impl Iterator<Item = &str>;

    /// A tensor where it lies, and the part of the file that it lies in.
    fn view(&self, name: &str) -> Result<Option<(View<'_>, Range<usize>)>>;
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

    /// A tensor, its two dimensions exchanged when `transposed` and it is a matrix.
    pub fn read(&mut self, name: &str, transposed: bool) -> Result<Option<HostTensor>> {
        self.look(name, |view| match transposed {
            true => view.transposed().to_host(),
            false => view.to_host(),
        })
    }

    /// See [`TensorSource::read_bands`](super::TensorSource::read_bands).
    pub fn bands(&mut self, name: &str, bands: Bands<'_>) -> Result<Option<Vec<usize>>> {
        self.look(name, |view| {
            if view.shape() == bands.shape {
                view.bands(bands.rows, bands.each)?;
            }
            Ok(view.shape().to_vec())
        })
    }

    /// What is made of a tensor; its part of the file is not needed after that.
    fn look<T>(
        &mut self,
        name: &str,
        make: impl FnOnce(View<'_>) -> Result<T, (usize, f32)>,
    ) -> Result<Option<T>> {
        let Some(&shard) = self.places.get(name) else {
            return Ok(None);
        };
        let shard = &mut self.shards[shard];
        let Some((view, range)) = shard.view(name)? else {
            return Ok(None);
        };
        let made = make(view).map_err(|found| not_finite(shard.file().path(), name, found))?;
        shard.file_mut().release(range);
        Ok(Some(made))
    }

    /// See [`TensorSource::shape_of`](super::TensorSource::shape_of).
    pub fn shape_of(&self, name: &str) -> Result<Option<Vec<usize>>> {
        let Some(&shard) = self.places.get(name) else {
            return Ok(None);
        };
        let view = self.shards[shard].view(name)?;
        Ok(view.map(|(view, _)| view.shape().to_vec()))
    }

    pub fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    pub fn path(&self) -> &Path {
        &self.origin
    }
}

/// The error of a tensor with a value that is no number.
fn not_finite(path: &Path, name: &str, (at, value): (usize, f32)) -> ModelError {
    ModelError::weights(path, format!("tensor {name} holds {value} at element {at}"))
}
