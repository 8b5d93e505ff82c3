//! The header of a safetensors file.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The format's own limit for its header.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Dimensions that a tensor may have. PyTorch's own limit is 64; no weight of a language model has more than four.
const MAX_RANK: usize = 16;

/// Where a tensor lies, and what it is.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub dtype: Dtype,
    pub shape: Shape,
    /// First byte and the byte behind the last, in the file.
    data_offsets: (usize, usize),
}

impl Info {
    pub fn range(&self) -> std::ops::Range<usize> {
        self.data_offsets.0..self.data_offsets.1
    }
}

/// Dimensions, outermost first.
#[derive(Debug)]
pub(super) struct Shape(pub Vec<usize>);

/// The tensors of a file, each checked against the bytes that are there.
///
/// The crate `safetensors` has a reader of its own; this one also refuses names that stand twice, says which tensor is
/// wrong, and takes memory in proportion to the number of tensors, not to what the JSON spells out.
pub(super) fn parse(file: &[u8]) -> Result<BTreeMap<String, Info>, String> {
    let Some((prefix, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!("is no safetensors file: {} bytes", file.len()));
    };
    let header = u64::from_le_bytes(*prefix);
    if header > MAX_HEADER_BYTES || header > rest.len() as u64 {
        let size = file.len();
        return Err(format!(
            "is damaged: a header of {header} bytes in a file of {size}"
        ));
    }
    let (header, data) = rest.split_at(header as usize);
    let damaged = |cause: String| format!("has a damaged header: {cause}");
    let Entries(mut tensors) = serde_json::from_slice(header).map_err(|cause| damaged(cause.to_string()))?;
    check_places(&tensors, data.len()).map_err(damaged)?;
    let start = file.len() - data.len();
    for info in tensors.values_mut() {
        info.data_offsets.0 += start;
        info.data_offsets.1 += start;
    }
    Ok(tensors)
}

/// Tensors fill their bytes, lie in the file and share no place: else a small file could spell out a large model.
fn check_places(tensors: &BTreeMap<String, Info>, data_bytes: usize) -> Result<(), String> {
    let mut places = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let (start, end) = info.data_offsets;
        if start > end || end > data_bytes {
            return Err(format!(
                "tensor {name} is at {start}..{end}, but {data_bytes} bytes of data are there"
            ));
        }
        let shape = &info.shape.0;
        let elements = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size));
        let wanted = elements.and_then(|count| count.checked_mul(info.dtype.bitsize()));
        if wanted.is_none() || wanted != (end - start).checked_mul(8) {
            let bytes = end - start;
            return Err(format!(
                "tensor {name} of shape {shape:?} does not fill its {bytes} bytes"
            ));
        }
        if start < end {
            places.push((start, end, name));
        }
    }
    places.sort_unstable();
    for pair in places.windows(2) {
        let ((_, end, first), (start, _, second)) = (pair[0], pair[1]);
        if start < end {
            return Err(format!("tensors {first} and {second} overlap"));
        }
    }
    Ok(())
}

struct Entries(BTreeMap<String, Info>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let info = map
                        .next_value()
                        .map_err(|cause| A::Error::custom(format!("tensor {name}: {cause}")))?;
                    if tensors.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {name} stands in it twice")));
                    }
                    tensors.insert(name, info);
                }
                Ok(Entries(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = sequence.next_element()? {
                    if sizes.len() == MAX_RANK {
                        return Err(A::Error::custom(format!(
                            "it has more than {MAX_RANK} dimensions"
                        )));
                    }
                    sizes.push(size);
                }
                Ok(Shape(sizes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}
