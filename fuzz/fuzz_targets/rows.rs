//! A file of rows: JSON lines, an array, CSV, gzip of any, in every format. Parquet is left to its own crate's fuzzing: what
//! panics there is caught by the reader, which a fuzzer would not see.
#![no_main]

use aligner_data::{Fields, Format, OnBadRow, ReadOptions, RowReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"PAR1") {
        return;
    }
    for on_bad_row in [OnBadRow::Stop, OnBadRow::Skip] {
        read("rows", bytes, on_bad_row, None);
    }
    // One of the formats, and one of the names, is enough for each input; the fuzzer finds the lengths.
    let formats: Vec<Format> = Format::all().collect();
    let format = formats[bytes.len() % formats.len()];
    read("rows", bytes, OnBadRow::Skip, Some(format));
    read("rows.csv", bytes, OnBadRow::Skip, None);
    read("rows.tsv", bytes, OnBadRow::Skip, Some(format));
});

fn read(name: &str, bytes: &[u8], on_bad_row: OnBadRow, format: Option<Format>) {
    let options = ReadOptions {
        fields: Fields::Triple,
        on_bad_row,
        format,
        ..ReadOptions::default()
    };
    let Ok(reader) = RowReader::from_reader(name, bytes, options) else {
        return;
    };
    // What gzip makes of a few bytes may be long; a reader of rows streams it, so the first rows say enough.
    for record in reader.take(1000) {
        if let Ok(record) = record {
            assert!(!record.question.trim().is_empty());
            assert!(record.correction.is_some());
        }
    }
}
