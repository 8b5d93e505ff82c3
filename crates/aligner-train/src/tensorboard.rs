//! TensorBoard's event files, so that a run can be watched while it goes on: `tensorboard --logdir runs`.
//!
//! A file is a sequence of records, each framed with its length and two checksums (TFRecord); a record is an `Event` of
//! `tensorboard/compat/proto/event.proto`, of which scalars need five fields. That is little enough to write by hand.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

const PREFIX: &str = "events.out.tfevents.";

/// One event file: every process that goes on with a run writes its own, as TensorBoard expects it.
#[derive(Debug)]
pub(crate) struct EventFile {
    file: File,
    opened: Instant,
    opened_secs: f64,
}

impl EventFile {
    /// Opens a new file in `dir` for a run whose next record is of step `next_step`.
    ///
    /// TensorBoard reads the files of a folder by name and forgets what it read of `next_step` and later when it comes to
    /// this one. So steps that were lost with a crash and are taken again do not double.
    pub fn create(dir: &Path, next_step: u64) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::create_at(dir, next_step, now.map_or(0.0, |now| now.as_secs_f64()))
    }

    fn create_at(dir: &Path, next_step: u64, now_secs: f64) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        // After the newest file whatever the clock says: it may have been set back, and two starts may share a second.
        let opened_secs = match newest(dir)? {
            Some(newest) => now_secs.max(newest as f64 + 1.0),
            None => now_secs,
        };
        let path = dir.join(format!("{PREFIX}{:010}.aligner", opened_secs as u64));
        let file = OpenOptions::new().create_new(true).append(true).open(path)?;
        let mut events = Self {
            file,
            opened: Instant::now(),
            opened_secs,
        };
        events.file.write_all(&opening(opened_secs, next_step))?;
        Ok(events)
    }

    /// Appends every number of a record as a scalar `split/field`.
    pub fn append(&mut self, record: &Map<String, Value>) -> io::Result<()> {
        // Counted from the start, so that a clock that is set back does not bend the curves.
        let secs = self.opened_secs + self.opened.elapsed().as_secs_f64();
        // In one piece: a process that is killed leaves at most one record torn, and the reader passes over that.
        self.file.write_all(&frame(&scalars(secs, record)))
    }
}

/// The greatest time in the names of the event files in `dir`.
fn newest(dir: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let time = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let time = time.and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        // Ten digits, or the names would no longer sort by time.
        newest = newest.max(time.filter(|&time| time < 9_999_999_999));
    }
    Ok(newest)
}

/// The first two records: the format's version, and a session that starts at `next_step`.
fn opening(secs: f64, next_step: u64) -> Vec<u8> {
    let mut version = event(secs, 0);
    bytes_field(&mut version, 3, b"brain.Event:2");
    let mut writer = Vec::new();
    bytes_field(&mut writer, 1, b"aligner");
    bytes_field(&mut version, 10, &writer);
    let mut start = event(secs, next_step);
    // SessionLog { status: START }
    bytes_field(&mut start, 7, &[1 << 3, 1]);
    [frame(&version), frame(&start)].concat()
}

/// `Event { wall_time, step, summary: [Value { tag, simple_value }, …] }`
fn scalars(secs: f64, record: &Map<String, Value>) -> Vec<u8> {
    let split = record.get("split").and_then(Value::as_str).unwrap_or("train");
    let step = record.get("step").and_then(Value::as_u64).unwrap_or(0);
    let mut summary = Vec::new();
    let fields = record.iter().filter(|(name, _)| *name != "step");
    for (name, value) in fields.filter_map(|(name, value)| Some((name, value.as_f64()?))) {
        let mut scalar = Vec::new();
        bytes_field(&mut scalar, 1, format!("{split}/{name}").as_bytes());
        scalar.push((2 << 3) | FIXED_32);
        scalar.extend((value as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &scalar);
    }
    let mut event = event(secs, step);
    bytes_field(&mut event, 5, &summary);
    event
}

const FIXED_64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED_32: u8 = 5;

/// `Event { wall_time, step }`
fn event(secs: f64, step: u64) -> Vec<u8> {
    let mut event = vec![(1 << 3) | FIXED_64];
    event.extend(secs.to_le_bytes());
    // proto3 leaves out what has its default.
    if step > 0 {
        event.push(2 << 3);
        varint(&mut event, step);
    }
    event
}

fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push((number << 3) | LENGTH_DELIMITED);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A TFRecord: length, its checksum, the bytes, their checksum.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(bytes);
    record.extend(masked_crc(bytes).to_le_bytes());
    record
}

/// TFRecord's checksum: CRC-32C, rotated and moved, because a checksum of data that hold checksums is a weak one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli): RFC 3720, appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (crc >> 8) ^ CRC_TABLE[((crc ^ u32::from(byte)) & 0xff) as usize]
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_checksum_is_the_standards() {
        // RFC 3720, appendix B.4, and the check value of CRC-32C.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// The golden was made by `tests/golden/make_tensorboard.py` with TensorBoard's own protobuf classes and writer.
    #[test]
    fn the_bytes_are_those_of_tensorboards_own_writer() {
        let mut bytes = opening(1_700_000_000.25, 301);
        for (secs, text) in [
            (
                1_700_000_001.5,
                r#"{"step": 301, "epoch": 0.5, "split": "train", "loss": 1.25, "lr": 2e-5, "stage": "warm-up", "tokens": 123456789}"#,
            ),
            (
                1_700_000_002.75,
                r#"{"step": 301, "split": "valid", "loss": 0.75, "copy_rate": 0.125, "note": null}"#,
            ),
        ] {
            bytes.extend(frame(&scalars(secs, &record(text))));
        }
        assert_eq!(bytes, include_bytes!("../tests/golden/events.tfevents"));
    }

    #[test]
    fn a_later_file_sorts_behind_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        for now in [1_700_000_000.0, 1_700_000_000.4, 1_600_000_000.0, 0.0] {
            EventFile::create_at(dir.path(), 1, now).unwrap();
        }
        std::fs::write(dir.path().join("events.out.tfevents.notes"), "mine").unwrap();
        let names = names(dir.path());
        assert_eq!(names.len(), 5);
        assert_eq!(names[3], "events.out.tfevents.1700000003.aligner");
    }

    #[test]
    fn time_within_a_file_does_not_go_back() {
        let dir = tempfile::tempdir().unwrap();
        EventFile::create_at(dir.path(), 1, 1_700_000_000.0).unwrap();
        let events = EventFile::create_at(dir.path(), 1, 5.0).unwrap();
        assert_eq!(events.opened_secs, 1_700_000_001.0);
    }
}
