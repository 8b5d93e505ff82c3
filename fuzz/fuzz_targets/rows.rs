//! A file of rows: JSON lines, an array, gzip of either.
#![no_main]

use aligner_data::{Fields, OnBadRow, ReadOptions, RowReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for on_bad_row in [OnBadRow::Stop, OnBadRow::Skip] {
        let options = ReadOptions {
            fields: Fields::Triple,
            on_bad_row,
            ..ReadOptions::default()
        };
        let Ok(reader) = RowReader::from_reader("rows", bytes, options) else {
            return;
        };
        // What gzip makes of a few bytes may be long; a reader of rows streams it, so the first rows say enough.
        for record in reader.take(1000) {
            if let Ok(record) = record {
                assert!(record.correction.is_some());
            }
        }
    }
});
