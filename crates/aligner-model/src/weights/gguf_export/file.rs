//! The file format: header, metadata, where each tensor lies, the tensors.

use std::io::Write;
use std::path::Path;

use super::elements::GgufDtype;
use crate::error::{ModelError, Result};
use crate::weights::gguf::{GgufArray, GgufValue};
use crate::weights::write_atomic;

const MAGIC: [u8; 4] = *b"GGUF";
const VERSION: u32 = 3;
/// Where a tensor may begin: the format's default, so no key needs to say it.
const ALIGNMENT: u64 = 32;

/// A tensor that is read when its turn to be written comes.
pub(super) struct Entry {
    /// Its name in the file.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    pub dtype: GgufDtype,
    /// Gives the elements, row-major.
    pub read: Box<dyn FnOnce() -> Result<Vec<f32>>>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.dtype.bytes(self.shape.iter().product())
    }
}

/// Writes a file beside its place and renames it.
pub(super) fn write(path: &Path, metadata: &[(String, GgufValue)], tensors: Vec<Entry>) -> Result<()> {
    let mut head = Vec::new();
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut head, key);
        head.extend(value_type(value).to_le_bytes());
        put(&mut head, value);
    }
    let mut offset = 0;
    for tensor in &tensors {
        text(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        // ggml counts dimensions from the innermost.
        let dimensions = tensor.shape.iter().rev();
        head.extend(dimensions.flat_map(|&size| (size as u64).to_le_bytes()));
        head.extend(tensor.dtype.id().to_le_bytes());
        head.extend(u64::to_le_bytes(offset));
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    write_atomic(path, |file| {
        file.write_all(&head).map_err(ModelError::io("write", path))?;
        tensors
            .into_iter()
            .try_for_each(|tensor| data(file, path, tensor))
    })
}

fn data(file: &mut impl Write, path: &Path, tensor: Entry) -> Result<()> {
    let expected = tensor.bytes();
    let values = (tensor.read)()?;
    let mut bytes = tensor.dtype.encode(&tensor.name, &values)?;
    if bytes.len() as u64 != expected {
        let (shape, count) = (&tensor.shape, values.len());
        let reason = format!("tensor {} has {count} elements, not {shape:?}", tensor.name);
        return Err(ModelError::Export(reason));
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    file.write_all(&bytes).map_err(ModelError::io("write", path))
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value_type(value: &GgufValue) -> u32 {
    match value {
        GgufValue::U8(_) => 0,
        GgufValue::I8(_) => 1,
        GgufValue::U16(_) => 2,
        GgufValue::I16(_) => 3,
        GgufValue::U32(_) => 4,
        GgufValue::I32(_) => 5,
        GgufValue::F32(_) => 6,
        GgufValue::Bool(_) => 7,
        GgufValue::String(_) => 8,
        GgufValue::Array(_) => 9,
        GgufValue::U64(_) => 10,
        GgufValue::I64(_) => 11,
        GgufValue::F64(_) => 12,
    }
}

fn put(out: &mut Vec<u8>, value: &GgufValue) {
    match value {
        GgufValue::U8(value) => out.extend(value.to_le_bytes()),
        GgufValue::I8(value) => out.extend(value.to_le_bytes()),
        GgufValue::U16(value) => out.extend(value.to_le_bytes()),
        GgufValue::I16(value) => out.extend(value.to_le_bytes()),
        GgufValue::U32(value) => out.extend(value.to_le_bytes()),
        GgufValue::I32(value) => out.extend(value.to_le_bytes()),
        GgufValue::F32(value) => out.extend(value.to_le_bytes()),
        GgufValue::Bool(value) => out.push(u8::from(*value)),
        GgufValue::String(value) => text(out, value),
        GgufValue::Array(array) => put_array(out, array),
        GgufValue::U64(value) => out.extend(value.to_le_bytes()),
        GgufValue::I64(value) => out.extend(value.to_le_bytes()),
        GgufValue::F64(value) => out.extend(value.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &GgufArray) {
    fn numbers<T: Copy, const N: usize>(
        out: &mut Vec<u8>,
        kind: u32,
        values: &[T],
        bytes: impl Fn(T) -> [u8; N],
    ) {
        out.extend(kind.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        out.extend(values.iter().flat_map(|&value| bytes(value)));
    }
    match array {
        GgufArray::U8(values) => numbers(out, 0, values, u8::to_le_bytes),
        GgufArray::I8(values) => numbers(out, 1, values, i8::to_le_bytes),
        GgufArray::U16(values) => numbers(out, 2, values, u16::to_le_bytes),
        GgufArray::I16(values) => numbers(out, 3, values, i16::to_le_bytes),
        GgufArray::U32(values) => numbers(out, 4, values, u32::to_le_bytes),
        GgufArray::I32(values) => numbers(out, 5, values, i32::to_le_bytes),
        GgufArray::F32(values) => numbers(out, 6, values, f32::to_le_bytes),
        GgufArray::Bool(values) => numbers(out, 7, values, |value| [u8::from(value)]),
        GgufArray::U64(values) => numbers(out, 10, values, u64::to_le_bytes),
        GgufArray::I64(values) => numbers(out, 11, values, i64::to_le_bytes),
        GgufArray::F64(values) => numbers(out, 12, values, f64::to_le_bytes),
        GgufArray::String(values) => {
            out.extend(8u32.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| text(out, value));
        }
    }
}
