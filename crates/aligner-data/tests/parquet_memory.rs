//! A Parquet file is read a batch at a time: 600 MB of texts go by while the process grows by less than 60 MB.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(target_os = "linux")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use aligner_data::{ReadOptions, RowReader};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const GROUPS: usize = 30;
const ROWS: usize = 1000;
const LENGTH: usize = 20_000;

fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn write(path: &Path) {
    let schema = "message rows { required binary question (UTF8); required binary answer (UTF8); \
                  required binary correction (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for group in 0..GROUPS {
        let mut columns = writer.next_row_group().unwrap();
        for length in [10, LENGTH, 10] {
            let mut column = columns.next_column().unwrap().unwrap();
            for row in 0..ROWS {
                let text = format!("{group} {row} ") + &"x".repeat(length);
                let text = [ByteArray::from(text.into_bytes())];
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&text, None, None)
                    .unwrap();
            }
            column.close().unwrap();
        }
        columns.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn a_large_parquet_file_is_read_in_constant_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.parquet");
    write(&path);
    let before = resident_kilobytes();
    let (mut seen, mut largest) = (0, 0);
    for record in RowReader::open(&path, ReadOptions::default()).unwrap() {
        assert!(record.unwrap().answer.len() > LENGTH);
        seen += 1;
        if seen % 500 == 0 {
            largest = largest.max(resident_kilobytes());
        }
    }
    assert_eq!(seen, GROUPS * ROWS);
    println!("{before} kB before, {largest} kB while reading");
    assert!(
        largest < before + 60_000,
        "{before} kB before, {largest} kB while reading"
    );
}
