//! Writing safetensors: one file, or shards with their index.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::{NamedTensor, WeightDtype, write_atomic};
use crate::error::{ModelError, Result};

/// Bytes of tensors that one file holds when nothing else is said: transformers' own default, 5 GB.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Writes `tensors` to `path` in one type, one at a time, beside its place and then renamed.
///
/// # Errors
/// When the file cannot be written, a tensor cannot be read, or a value is beyond the type's range.
pub fn write_safetensors_as(path: &Path, tensors: Vec<NamedTensor>, dtype: WeightDtype) -> Result<()> {
    let mut header = BTreeMap::new();
    header.insert("__metadata__".to_string(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in &tensors {
        let end = offset + bytes(tensor, dtype);
        let entry = json!({"dtype": dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let header = serde_json::to_string(&header).map_err(|source| ModelError::Json {
        path: path.to_path_buf(),
        source,
    })?;
    write_atomic(path, |file| {
        let io = || ModelError::io("write", path);
        // Data that starts at a multiple of eight can be mapped and read as f32 in place.
        let padded = header.len().next_multiple_of(8);
        file.write_all(&(padded as u64).to_le_bytes()).map_err(io())?;
        file.write_all(header.as_bytes()).map_err(io())?;
        // Not by a format's width, which ends at 65 535.
        file.write_all(&b"       "[..padded - header.len()])
            .map_err(io())?;
        for tensor in tensors {
            // In pieces: the bytes of a whole embedding would be a second copy of it.
            for values in (tensor.read)()?.chunks(1 << 16) {
                file.write_all(&dtype.encode(&tensor.name, values)?)
                    .map_err(io())?;
            }
        }
        Ok(())
    })
}

fn bytes(tensor: &NamedTensor, dtype: WeightDtype) -> u64 {
    (tensor.shape.iter().product::<usize>() * dtype.bytes()) as u64
}

/// Writes `dir/model.safetensors`, or, when the tensors are more than `max_shard_bytes`, files
/// `model-00001-of-0000N.safetensors` of at most so many bytes (one tensor may be more) and
/// `model.safetensors.index.json`. The files are cut where transformers cuts them.
///
/// # Errors
/// As [`write_safetensors_as`].
pub fn write_shards(
    dir: &Path,
    tensors: Vec<NamedTensor>,
    dtype: WeightDtype,
    max_shard_bytes: u64,
) -> Result<()> {
    let total: u64 = tensors.iter().map(|tensor| bytes(tensor, dtype)).sum();
    let mut shards: Vec<Vec<NamedTensor>> = Vec::new();
    let mut room = 0;
    for tensor in tensors {
        let size = bytes(&tensor, dtype);
        match shards.last_mut() {
            Some(shard) if size <= room => {
                shard.push(tensor);
                room -= size;
            }
            _ => {
                shards.push(vec![tensor]);
                room = max_shard_bytes.saturating_sub(size);
            }
        }
    }
    if shards.len() <= 1 {
        let all = shards.pop().unwrap_or_default();
        return write_safetensors_as(&dir.join("model.safetensors"), all, dtype);
    }
    let count = shards.len();
    let mut places = BTreeMap::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        places.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone())));
        write_safetensors_as(&dir.join(&name), shard, dtype)?;
    }
    let text = format!(
        "{:#}\n",
        json!({"metadata": {"total_size": total}, "weight_map": places})
    );
    let path = dir.join("model.safetensors.index.json");
    write_atomic(&path, |file| {
        file.write_all(text.as_bytes())
            .map_err(ModelError::io("write", &path))
    })
}
