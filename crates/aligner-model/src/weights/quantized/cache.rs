//! The file of weights as they are multiplied: quantised, or in panels of f32.
//!
//! ```text
//! "ALIGNERW"   version u32   header's bytes u32   header's CRC-32 u32   header (JSON)   zeros   weights
//! ```
//!
//! Numbers are little-endian. Weights begin with multiples of 64 bytes, in the layout in which they are multiplied; the version
//! changes with it, and with how weights are rounded.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use crate::error::{ModelError, Result};
use crate::kernels::RuntimeWeights;
use crate::weights::{MappedFile, write_atomic};

const MAGIC: &[u8; 8] = b"ALIGNERW";
const VERSION: u32 = 2;
/// Bytes before the header.
const PREFIX: usize = 20;
/// What weights begin with a multiple of.
const ALIGN: usize = 64;
/// A file of a process that came to its end while it wrote is left alone for this long: it may be writing still.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: RuntimeWeights,
    fingerprint: String,
    /// Of the whole file.
    bytes: usize,
    weights: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    format: RuntimeWeights,
    input: usize,
    output: usize,
    /// From the first weight.
    start: usize,
    crc32: u32,
}

/// The weights of a mapped file.
#[derive(Debug)]
pub(super) struct CacheFile {
    weights: BTreeMap<String, Kept>,
}

impl CacheFile {
    /// The weights in a file; `None` when there is none, or it is not what this version makes of this model, or is damaged.
    pub fn find(path: &Path, format: RuntimeWeights, fingerprint: &str) -> Option<Self> {
        if !path.is_file() {
            return None;
        }
        match Self::open(path, format, fingerprint) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::info!(%error, "the weights of the file beside the model are made anew");
                None
            }
        }
    }

    /// Reads and checks all of a file.
    ///
    /// # Errors
    /// When it cannot be read, or its weights must not be used.
    pub fn open(path: &Path, format: RuntimeWeights, fingerprint: &str) -> Result<Self> {
        let file = Arc::new(MappedFile::open(path)?);
        let unfit = |reason: &str| ModelError::weights(path, reason);
        let (header, first) = read_header(file.bytes()).map_err(unfit)?;
        if header.format != format || header.fingerprint != fingerprint {
            return Err(unfit("was made of other files"));
        }
        if header.bytes != file.bytes().len() {
            return Err(unfit("has another length than it says"));
        }
        let weight = |entry: Entry| {
            let start = first.checked_add(entry.start)?;
            let end = start.checked_add(Kept::bytes_of(entry.format, [entry.input, entry.output])?)?;
            let bytes = file.bytes().get(start..end)?;
            if !start.is_multiple_of(ALIGN) || crc32fast::hash(bytes) != entry.crc32 {
                return None;
            }
            let dims = [entry.input, entry.output];
            let weight = Kept::mapped(entry.format, dims, &file, start..end)?;
            Some((entry.name, weight))
        };
        let weights: Option<BTreeMap<_, _>> = header.weights.into_par_iter().map(weight).collect();
        let weights = weights.ok_or_else(|| unfit("has a weight that is not as it was written"))?;
        Ok(Self { weights })
    }

    pub fn weight(&self, name: &str) -> Option<&Kept> {
        self.weights.get(name)
    }
}

/// The header, and where the first weight may begin.
fn read_header(bytes: &[u8]) -> Result<(Header, usize), &'static str> {
    const TORN: &str = "ends before its header does";
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let word = |at| word(at).map(u32::from_le_bytes).ok_or(TORN);
    if bytes.get(..8) != Some(MAGIC) {
        return Err("is no file of weights");
    }
    if word(8)? != VERSION {
        return Err("was written by another version");
    }
    let range = header_range(word(12)? as usize).ok_or(TORN)?;
    let end = range.end;
    let json = bytes.get(range).ok_or(TORN)?;
    if crc32fast::hash(json) != word(16)? {
        return Err("has a damaged header");
    }
    let header = serde_json::from_slice(json).map_err(|_| "has a header that cannot be read")?;
    Ok((header, end.next_multiple_of(ALIGN)))
}

fn header_range(len: usize) -> Option<Range<usize>> {
    // With room for what follows, so that no sum of places overflows.
    let end = PREFIX.checked_add(len)?;
    end.checked_add(ALIGN)?;
    Some(PREFIX..end)
}

/// Writes weights beside the file's place, syncs and renames.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(
    path: &Path,
    format: RuntimeWeights,
    fingerprint: &str,
    weights: &[(String, Kept)],
) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(ModelError::io("create", dir))?;
    }
    remove_left_behind(path);
    let mut end = 0usize;
    let entries = weights.iter().map(|(name, weight)| {
        let start = end.next_multiple_of(ALIGN);
        end = start + weight.bytes().len();
        (name, weight, start)
    });
    let entries: Vec<_> = entries.collect();
    let mut header = Header {
        format,
        fingerprint: fingerprint.to_string(),
        bytes: 0,
        weights: entries.par_iter().map(entry).collect(),
    };
    let json = sized(&mut header, end).map_err(|source| ModelError::Json {
        path: path.to_path_buf(),
        source,
    })?;
    write_atomic(path, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(ModelError::io("write", path));
        put(MAGIC)?;
        for word in [VERSION, json.len() as u32, crc32fast::hash(&json)] {
            put(&word.to_le_bytes())?;
        }
        put(&json)?;
        let mut at = PREFIX + json.len();
        let first = at.next_multiple_of(ALIGN);
        for (_, weight, start) in &entries {
            put(&[0; ALIGN][..first + start - at])?;
            put(weight.bytes())?;
            at = first + start + weight.bytes().len();
        }
        Ok(())
    })
}

fn entry((name, weight, start): &(&String, &Kept, usize)) -> Entry {
    let [input, output] = weight.dims();
    Entry {
        name: (*name).clone(),
        format: weight.format(),
        input,
        output,
        start: *start,
        crc32: crc32fast::hash(weight.bytes()),
    }
}

/// The header with the file's length in it, on which its own length depends.
fn sized(header: &mut Header, weights: usize) -> serde_json::Result<Vec<u8>> {
    loop {
        let json = serde_json::to_vec(header)?;
        let bytes = (PREFIX + json.len()).next_multiple_of(ALIGN) + weights;
        if bytes == header.bytes {
            return Ok(json);
        }
        header.bytes = bytes;
    }
}

/// Removes what processes that came to their end have left of this file. What goes wrong here matters to nobody.
fn remove_left_behind(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let begins = format!("{}.", name.to_string_lossy());
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let part = entry.file_name().to_string_lossy().into_owned();
        let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let age = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
        if part.starts_with(&begins) && part.ends_with(".part") && age.is_some_and(|age| age > LEFT_BEHIND) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{PanelWeight, QuantFormat, QuantizedWeight};
    use crate::weights::HostTensor;

    fn weights() -> Vec<(String, Kept)> {
        let weight = |output: usize, input: usize, format| {
            let values = (0..output * input)
                .map(|at| ((at * 37) % 101) as f32 - 50.0)
                .collect();
            let tensor = HostTensor {
                shape: vec![output, input],
                values,
            };
            Kept::Quantized(QuantizedWeight::quantize(&tensor, format).unwrap())
        };
        vec![
            ("a".into(), weight(20, 33, QuantFormat::Q4)),
            ("b".into(), weight(3, 64, QuantFormat::Q8)),
            ("c".into(), weight(17, 7, QuantFormat::Q4)),
            ("f".into(), panels(40, 9)),
        ]
    }

    fn panels(output: usize, input: usize) -> Kept {
        let values: Vec<f32> = (0..output * input).map(|at| (at as f32).sin()).collect();
        Kept::Panels(PanelWeight::from_outputs(&values, [input, output]))
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/model.q4.aligner");
        write(&path, RuntimeWeights::Q4, "print", &weights()).unwrap();
        let file = CacheFile::open(&path, RuntimeWeights::Q4, "print").unwrap();
        for (name, weight) in weights() {
            let got = file.weight(&name).unwrap();
            assert_eq!((got.format(), got.dims()), (weight.format(), weight.dims()));
            assert_eq!(got.bytes(), weight.bytes());
            assert_eq!(got.bytes().as_ptr() as usize % ALIGN, 0);
        }
        assert!(file.weight("d").is_none());
        // Nothing but the file is left.
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn other_files_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.q4.aligner");
        write(&path, RuntimeWeights::Q4, "print", &weights()).unwrap();
        assert!(CacheFile::find(&path, RuntimeWeights::Q8, "print").is_none());
        assert!(CacheFile::find(&path, RuntimeWeights::Q4, "another").is_none());
        assert!(CacheFile::find(&dir.path().join("none"), RuntimeWeights::Q4, "print").is_none());
        assert!(CacheFile::find(dir.path(), RuntimeWeights::Q4, "print").is_none());
        assert!(CacheFile::find(&path, RuntimeWeights::Q4, "print").is_some());
    }

    /// Every byte of the header and some of every weight; zeros between weights are read by nobody.
    #[test]
    fn a_flipped_bit_or_a_missing_end_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.q4.aligner");
        write(&path, RuntimeWeights::Q4, "print", &weights()).unwrap();
        let good = std::fs::read(&path).unwrap();
        let (_, first) = read_header(&good).unwrap();
        let mut places: Vec<usize> = (0..first - ALIGN).collect();
        let mut start = first;
        for (_, weight) in weights() {
            let len = weight.bytes().len();
            places.extend([start, start + 1, start + len / 2, start + len - 1]);
            start = (start + len).next_multiple_of(ALIGN);
        }
        for at in places {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            assert!(
                CacheFile::open(&path, RuntimeWeights::Q4, "print").is_err(),
                "{at}"
            );
        }
        for len in [0, 1, 7, 8, 19, 20, 100, first, good.len() - 1] {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(
                CacheFile::open(&path, RuntimeWeights::Q4, "print").is_err(),
                "{len}"
            );
        }
        let longer = [&good[..], &[0]].concat();
        std::fs::write(&path, longer).unwrap();
        assert!(CacheFile::open(&path, RuntimeWeights::Q4, "print").is_err());
        std::fs::write(&path, &good).unwrap();
        CacheFile::open(&path, RuntimeWeights::Q4, "print").unwrap();
    }

    /// A header whose checksum is right and whose numbers are not.
    #[test]
    fn a_header_of_lies_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.q8.aligner");
        let largest = usize::MAX;
        let places = [
            (largest, 2, 0),
            (1, largest, 0),
            (64, 3, largest),
            (64, 3, 1 << 40),
            (64, 3, 32),
            (0, 0, 0),
            (0, 5, 0),
            (5, 0, 0),
        ];
        let each = places.iter().flat_map(|place| [(place, "q8"), (place, "f32")]);
        for (&(input, output, start), format) in each {
            let json = format!(
                r#"{{"format":"q8","fingerprint":"p","bytes":4096,"weights":[{{"name":"a","format":"{format}","input":{input},"output":{output},"start":{start},"crc32":0}}]}}"#
            );
            let mut file = MAGIC.to_vec();
            for word in [VERSION, json.len() as u32, crc32fast::hash(json.as_bytes())] {
                file.extend(word.to_le_bytes());
            }
            file.extend(json.as_bytes());
            file.resize(4096, 0);
            std::fs::write(&path, &file).unwrap();
            assert!(
                CacheFile::open(&path, RuntimeWeights::Q8, "p").is_err(),
                "{input} {output} {start}"
            );
        }
        let mut file = MAGIC.to_vec();
        for word in [VERSION, u32::MAX, 0] {
            file.extend(word.to_le_bytes());
        }
        std::fs::write(&path, &file).unwrap();
        assert!(CacheFile::open(&path, RuntimeWeights::Q8, "p").is_err());
    }

    #[test]
    fn parts_left_behind_are_removed_once_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.q4.aligner");
        let (old, new) = (
            dir.path().join("model.q4.aligner.1.part"),
            dir.path().join("model.q4.aligner.2.part"),
        );
        for part in [&old, &new] {
            std::fs::write(part, "x").unwrap();
        }
        let file = std::fs::File::options().write(true).open(&old).unwrap();
        file.set_modified(SystemTime::now() - 2 * LEFT_BEHIND).unwrap();
        write(&path, RuntimeWeights::Q4, "print", &weights()).unwrap();
        assert_eq!((old.exists(), new.exists(), path.exists()), (false, true, true));
    }
}
