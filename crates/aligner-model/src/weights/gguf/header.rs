//! What stands before a GGUF file's data: metadata, and where each tensor lies.
//!
//! Every count and length is checked against the bytes that are left before anything is allocated for it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::dequant::GgmlType;
use super::value::{GgufArray, GgufValue};
use crate::error::{ModelError, Result};

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Vocabularies of a quarter of a million tokens take some 15 MB.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// ggml's own limit.
const MAX_DIMENSIONS: u32 = 4;
/// The bytes of an entry with an empty name and the smallest value: length, type, value.
const MIN_METADATA_BYTES: u64 = 8 + 4 + 1;
/// Name's length, number of dimensions, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Dimensions, outermost first: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub kind: GgmlType,
    /// Where its bytes begin, from the start of the file.
    pub(super) start: u64,
    /// How many they are.
    pub(super) bytes: u64,
}

/// All that stands before the data.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub metadata: BTreeMap<String, GgufValue>,
    pub tensors: BTreeMap<String, GgufTensor>,
}

impl Header {
    /// Reads the start of a file of `size` bytes; `path` is for messages.
    pub fn read(reader: impl Read, size: u64, path: &Path) -> Result<Self> {
        let mut input = Input {
            reader,
            position: 0,
            limit: size.min(MAX_HEADER_BYTES),
            size,
            path,
        };
        let version = input.version()?;
        let tensor_count = input.u64()?;
        let metadata_count = input.u64()?;
        let metadata = input.metadata(metadata_count)?;
        let alignment = alignment(&metadata, &input)?;
        let mut tensors = input.tensors(tensor_count)?;
        input.place(&mut tensors, alignment)?;
        Ok(Self {
            version,
            metadata,
            tensors,
        })
    }
}

fn alignment<R: Read>(metadata: &BTreeMap<String, GgufValue>, input: &Input<'_, R>) -> Result<u64> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    value
        .as_u64()
        .filter(|value| value.is_power_of_two() && *value <= MAX_HEADER_BYTES)
        .ok_or_else(|| {
            input.error(format!(
                "general.alignment is {value:?}, which is no power of two"
            ))
        })
}

/// The bytes of a header, never read beyond `limit`.
struct Input<'a, R> {
    reader: R,
    position: u64,
    limit: u64,
    size: u64,
    path: &'a Path,
}

impl<R: Read> Input<'_, R> {
    fn error(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Weights {
            path: self.path.to_path_buf(),
            reason: reason.into(),
        }
    }

    fn left(&self) -> u64 {
        self.limit - self.position
    }

    /// Moves on by `length` bytes when so many are left.
    fn claim(&mut self, length: u64) -> Result<()> {
        if length > self.left() {
            let (position, size) = (self.position, self.size);
            let reason = if self.limit < size {
                format!("has a header of more than {MAX_HEADER_BYTES} bytes")
            } else {
                format!("is damaged: {length} bytes are due at byte {position} of {size}")
            };
            return Err(self.error(reason));
        }
        self.position += length;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.claim(N as u64)?;
        let mut bytes = [0; N];
        self.reader
            .read_exact(&mut bytes)
            .map_err(ModelError::io("read", self.path))?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        self.claim(length)?;
        let mut bytes = vec![0; length as usize];
        self.reader
            .read_exact(&mut bytes)
            .map_err(ModelError::io("read", self.path))?;
        let start = self.position - length;
        String::from_utf8(bytes)
            .map_err(|_| self.error(format!("is damaged: the text at byte {start} is not UTF-8")))
    }

    fn version(&mut self) -> Result<u32> {
        if self.size < 8 || self.array()? != MAGIC {
            return Err(self.error(format!("is no GGUF file: {} bytes", self.size)));
        }
        match self.u32()? {
            version @ (2 | 3) => Ok(version),
            version if version.swap_bytes() <= 3 => {
                Err(self.error("is a big-endian GGUF file; only little-endian ones are read"))
            }
            version => Err(self.error(format!(
                "is GGUF version {version}; versions 2 and 3 are read: convert it again"
            ))),
        }
    }

    /// Whether `count` things of at least `each` bytes can follow.
    fn check_count(&self, what: &str, count: u64, each: u64) -> Result<()> {
        if count > self.left() / each {
            let left = self.left();
            return Err(self.error(format!("is damaged: {count} {what} in the {left} bytes left")));
        }
        Ok(())
    }

    fn metadata(&mut self, count: u64) -> Result<BTreeMap<String, GgufValue>> {
        self.check_count("metadata entries", count, MIN_METADATA_BYTES)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..count {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.error(format!("has the metadata key {key:?} twice")));
            }
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<GgufValue> {
        Ok(match kind {
            0 => GgufValue::U8(u8::from_le_bytes(self.array()?)),
            1 => GgufValue::I8(i8::from_le_bytes(self.array()?)),
            2 => GgufValue::U16(u16::from_le_bytes(self.array()?)),
            3 => GgufValue::I16(i16::from_le_bytes(self.array()?)),
            4 => GgufValue::U32(self.u32()?),
            5 => GgufValue::I32(i32::from_le_bytes(self.array()?)),
            6 => GgufValue::F32(f32::from_le_bytes(self.array()?)),
            7 => GgufValue::Bool(self.array::<1>()? != [0]),
            8 => GgufValue::String(self.text()?),
            9 => GgufValue::Array(self.list(key)?),
            10 => GgufValue::U64(self.u64()?),
            11 => GgufValue::I64(i64::from_le_bytes(self.array()?)),
            12 => GgufValue::F64(f64::from_le_bytes(self.array()?)),
            _ => return Err(self.error(format!("metadata {key:?} is of the unknown type {kind}"))),
        })
    }

    fn list(&mut self, key: &str) -> Result<GgufArray> {
        let kind = self.u32()?;
        let count = self.u64()?;
        Ok(match kind {
            0 => GgufArray::U8(self.scalars(key, count, u8::from_le_bytes)?),
            1 => GgufArray::I8(self.scalars(key, count, i8::from_le_bytes)?),
            2 => GgufArray::U16(self.scalars(key, count, u16::from_le_bytes)?),
            3 => GgufArray::I16(self.scalars(key, count, i16::from_le_bytes)?),
            4 => GgufArray::U32(self.scalars(key, count, u32::from_le_bytes)?),
            5 => GgufArray::I32(self.scalars(key, count, i32::from_le_bytes)?),
            6 => GgufArray::F32(self.scalars(key, count, f32::from_le_bytes)?),
            7 => GgufArray::Bool(self.scalars(key, count, |byte: [u8; 1]| byte != [0])?),
            8 => {
                self.check_count(&format!("texts of {key:?}"), count, 8)?;
                GgufArray::String((0..count).map(|_| self.text()).collect::<Result<_>>()?)
            }
            9 => return Err(self.error(format!("metadata {key:?} is an array of arrays"))),
            10 => GgufArray::U64(self.scalars(key, count, u64::from_le_bytes)?),
            11 => GgufArray::I64(self.scalars(key, count, i64::from_le_bytes)?),
            12 => GgufArray::F64(self.scalars(key, count, f64::from_le_bytes)?),
            _ => {
                let reason = format!("metadata {key:?} is an array of the unknown type {kind}");
                return Err(self.error(reason));
            }
        })
    }

    fn scalars<T, const N: usize>(
        &mut self,
        key: &str,
        count: u64,
        convert: fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        self.check_count(&format!("elements of {key:?}"), count, N as u64)?;
        (0..count).map(|_| self.array().map(convert)).collect()
    }

    /// Tensors whose `start` is still an offset into the data.
    fn tensors(&mut self, count: u64) -> Result<BTreeMap<String, GgufTensor>> {
        self.check_count("tensors", count, MIN_TENSOR_BYTES)?;
        let mut tensors = BTreeMap::new();
        for _ in 0..count {
            let name = self.text()?;
            let tensor = self.tensor(&name)?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(self.error(format!("has the tensor {name:?} twice")));
            }
        }
        Ok(tensors)
    }

    fn tensor(&mut self, name: &str) -> Result<GgufTensor> {
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(self.error(format!("tensor {name:?} has {dimensions} dimensions")));
        }
        let sizes = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>>>()?;
        let kind = self.u32()?;
        let kind = GgmlType::from_id(kind).map_err(|reason| {
            let reason = format!("tensor {name:?} is of the type {reason}");
            self.error(reason)
        })?;
        let start = self.u64()?;
        let Some((shape, bytes)) = extent(&sizes, kind) else {
            let reason = format!(
                "tensor {name:?} of {} cannot have the dimensions {sizes:?}",
                kind.name()
            );
            return Err(self.error(reason));
        };
        Ok(GgufTensor {
            shape,
            kind,
            start,
            bytes,
        })
    }

    /// Turns offsets into places in the file, each checked: inside it, aligned, and no two on the same bytes.
    fn place(&self, tensors: &mut BTreeMap<String, GgufTensor>, alignment: u64) -> Result<()> {
        let data_start = self.position.next_multiple_of(alignment);
        let mut places = Vec::with_capacity(tensors.len());
        for (name, tensor) in tensors {
            let start = data_start.checked_add(tensor.start);
            let end = start.and_then(|start| start.checked_add(tensor.bytes));
            let (Some(start), Some(end)) = (start, end.filter(|&end| end <= self.size)) else {
                let (bytes, offset, size) = (tensor.bytes, tensor.start, self.size);
                let reason =
                    format!("tensor {name:?} needs {bytes} bytes at {data_start} + {offset} of {size}");
                return Err(self.error(reason));
            };
            if !tensor.start.is_multiple_of(alignment) {
                let reason = format!(
                    "tensor {name:?} lies at {}, no multiple of {alignment}",
                    tensor.start
                );
                return Err(self.error(reason));
            }
            tensor.start = start;
            places.push((start, end, name));
        }
        places.sort_unstable();
        for pair in places.windows(2) {
            if let [(_, end, first), (start, _, second)] = pair
                && start < end
            {
                return Err(self.error(format!("tensors {first:?} and {second:?} overlap")));
            }
        }
        Ok(())
    }
}

/// The shape, outermost dimension first, and the number of bytes; `None` when dimensions are 0, too large, or rows are
/// no whole blocks.
fn extent(sizes: &[u64], kind: GgmlType) -> Option<(Vec<usize>, u64)> {
    let (block_elements, block_bytes) = kind.block();
    let elements = sizes
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
        .filter(|&elements| elements > 0)?;
    if !sizes.first()?.is_multiple_of(block_elements as u64) {
        return None;
    }
    let bytes = (elements / block_elements as u64).checked_mul(block_bytes as u64)?;
    // Elements are f32 in memory.
    usize::try_from(elements.checked_mul(4)?).ok()?;
    let shape = sizes.iter().rev().map(|&size| size as usize).collect();
    Some((shape, bytes))
}
