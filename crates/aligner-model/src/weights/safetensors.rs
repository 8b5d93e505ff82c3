//! The safetensors format: reading one file or shards, a tensor at a time; writing one file as a stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::{HostTensor, TensorSource, WeightDtype, write_safetensors_as};
use crate::error::{ModelError, Result};

/// The format's own limit for its header.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Tensors of a directory's safetensors files.
#[derive(Debug)]
pub struct SafetensorsSource {
    origin: PathBuf,
    shards: Vec<Shard>,
    /// Tensor name → shard.
    places: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors' bytes begin.
    data_start: u64,
}

impl SafetensorsSource {
    /// Opens `dir/model.safetensors`, or the shards that `dir/model.safetensors.index.json` names.
    ///
    /// # Errors
    /// When there is neither, or a header is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let files = if dir.join(SINGLE).is_file() {
            vec![SINGLE.to_string()]
        } else if dir.join(INDEX).is_file() {
            shard_names(&dir.join(INDEX))?
        } else {
            return Err(ModelError::NoWeights(dir.to_path_buf()));
        };
        Self::from_files(dir, files.iter().map(|name| dir.join(name)).collect())
    }

    /// Opens one file of any name.
    ///
    /// # Errors
    /// When the file cannot be read or its header is damaged.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::from_files(path, vec![path.to_path_buf()])
    }

    fn from_files(origin: &Path, files: Vec<PathBuf>) -> Result<Self> {
        let shards = files.into_iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
        let mut places = BTreeMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for name in shard.tensors.keys() {
                if let Some(other) = places.insert(name.clone(), index) {
                    let reason = format!("tensor {name} is also in {}", shards[other].path.display());
                    return Err(ModelError::Weights {
                        path: shard.path.clone(),
                        reason,
                    });
                }
            }
        }
        Ok(Self {
            origin: origin.to_path_buf(),
            shards,
            places,
        })
    }
}

/// The distinct file names of an index, in order.
fn shard_names(index: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(index).map_err(ModelError::io("read", index))?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|source| ModelError::Json {
        path: index.into(),
        source,
    })?;
    let error = |reason: String| ModelError::Weights {
        path: index.to_path_buf(),
        reason,
    };
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| error("has no object `weight_map`".into()))?;
    let mut names = Vec::new();
    for (tensor, file) in map {
        let file = file
            .as_str()
            .ok_or_else(|| error(format!("the file of {tensor} is not a string")))?;
        // A shard lies beside its index: anything else could read files the user did not name.
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(error(format!(
                "the file of {tensor}, {file:?}, is not a plain file name"
            )));
        }
        if !names.iter().any(|known| known == file) {
            names.push(file.to_string());
        }
    }
    if names.is_empty() {
        return Err(error("`weight_map` is empty".into()));
    }
    Ok(names)
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let mut file = File::open(&path).map_err(ModelError::io("read", &path))?;
        let size = file.metadata().map_err(ModelError::io("read", &path))?.len();
        let error = |reason: String| ModelError::Weights {
            path: path.clone(),
            reason,
        };
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix)
            .map_err(|_| error(format!("is no safetensors file: {size} bytes")))?;
        let header = u64::from_le_bytes(prefix);
        if header > MAX_HEADER_BYTES || header + 8 > size {
            return Err(error(format!(
                "is damaged: a header of {header} bytes in a file of {size}"
            )));
        }
        let mut bytes = vec![0; header as usize];
        file.read_exact(&mut bytes)
            .map_err(ModelError::io("read", &path))?;
        let data_start = 8 + header;
        let tensors = parse_header(&bytes, size - data_start)
            .map_err(|cause| error(format!("has a damaged header: {cause}")))?;
        Ok(Self {
            path,
            file,
            tensors,
            data_start,
        })
    }

    fn read(&mut self, name: &str) -> Result<Option<HostTensor>> {
        let Some(info) = self.tensors.get(name) else {
            return Ok(None);
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(ModelError::io("read", &self.path))?;
        let error = |reason: String| ModelError::Weights {
            path: self.path.clone(),
            reason,
        };
        let values = to_f32(info.dtype, &bytes).ok_or_else(|| {
            error(format!(
                "tensor {name} is {:?}; supported are F32, F16, BF16",
                info.dtype
            ))
        })?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(error(format!(
                "tensor {name} holds {} at element {at}",
                values[at]
            )));
        }
        Ok(Some(HostTensor {
            shape: info.shape.clone(),
            values,
        }))
    }
}

/// The tensors of a header, each checked against the `data_bytes` that follow it.
fn parse_header(bytes: &[u8], data_bytes: u64) -> Result<BTreeMap<String, TensorInfo>, String> {
    let raw: BTreeMap<String, Value> = serde_json::from_slice(bytes).map_err(|cause| cause.to_string())?;
    let mut tensors = BTreeMap::new();
    for (name, value) in raw {
        if name == "__metadata__" {
            continue;
        }
        let info: TensorInfo =
            serde_json::from_value(value).map_err(|cause| format!("tensor {name}: {cause}"))?;
        let (start, end) = info.data_offsets;
        if start > end || end as u64 > data_bytes {
            return Err(format!(
                "tensor {name} is at {start}..{end}, but {data_bytes} bytes of data are there"
            ));
        }
        let elements = info
            .shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size));
        let wanted = elements.and_then(|count| count.checked_mul(info.dtype.bitsize()));
        if wanted != (end - start).checked_mul(8) {
            let shape = &info.shape;
            return Err(format!(
                "tensor {name} of shape {shape:?} does not fill its {} bytes",
                end - start
            ));
        }
        tensors.insert(name, info);
    }
    Ok(tensors)
}

fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    fn words<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let (chunks, _) = bytes.as_chunks::<N>();
        chunks.iter().map(|word| convert(*word)).collect()
    }
    match dtype {
        Dtype::F32 => Some(words(bytes, f32::from_le_bytes)),
        Dtype::F16 => Some(words(bytes, |word| f16::from_le_bytes(word).to_f32())),
        Dtype::BF16 => Some(words(bytes, |word| bf16::from_le_bytes(word).to_f32())),
        _ => None,
    }
}

impl TensorSource for SafetensorsSource {
    fn read(&mut self, name: &str) -> Result<Option<HostTensor>> {
        match self.places.get(name) {
            Some(&shard) => self.shards[shard].read(name),
            None => Ok(None),
        }
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn path(&self) -> &Path {
        &self.origin
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
