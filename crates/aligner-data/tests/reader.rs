//! Rows from files of every shape, whole and damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};

use aligner_data::{DataError, Fields, OnBadRow, ReadOptions, Record, RowReader};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

fn options(on_bad_row: OnBadRow) -> ReadOptions {
    ReadOptions {
        fields: Fields::Triple,
        on_bad_row,
        ..ReadOptions::default()
    }
}

fn read(bytes: &[u8], on_bad_row: OnBadRow) -> Result<Vec<Record>, DataError> {
    RowReader::from_reader("rows", bytes, options(on_bad_row))?.collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn row(text: &str) -> String {
    serde_json::json!({"question": format!("q {text}"), "answer": text, "correction": format!("c {text}")})
        .to_string()
}

fn error(bytes: &[u8]) -> String {
    read(bytes, OnBadRow::Stop).unwrap_err().to_string()
}

#[test]
fn the_shape_of_the_original_repository() {
    let text = r#"[
  {
    "question": "How do I boil an egg?",
    "answer": "Put it in the freezer.",
    "correction": "Put it in boiling water for about eight minutes."
  },
  {"question": "Is [this] a \"trap\", or {not}?", "answer": "]},", "correction": "\\"}
]
"#;
    let rows = read(text.as_bytes(), OnBadRow::Stop).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].origin.line, rows[1].origin.line), (2, 7));
    assert_eq!(rows[1].question, "Is [this] a \"trap\", or {not}?");
    assert_eq!(rows[1].correction.as_deref(), Some("\\"));
}

#[test]
fn lines_with_blanks_returns_and_a_byte_order_mark() {
    let text = format!("\u{feff}\n{}\r\n\r\n  {}\n\n", row("a"), row("b"));
    let rows = read(text.as_bytes(), OnBadRow::Stop).unwrap();
    assert_eq!(rows.iter().map(|row| row.origin.line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(rows[1].answer, "b");
}

#[test]
fn a_bad_row_stops_with_file_line_and_reason() {
    let text = format!("{}\n{{\"question\": \"q\"}}\n", row("a"));
    let message = error(text.as_bytes());
    assert!(
        message.starts_with("rows:2: row 1: has no `answer`; it has `question`"),
        "{message}"
    );
    assert!(message.contains("--on-bad-row skip"), "{message}");
}

#[test]
fn skipped_rows_are_counted_and_the_first_hundred_remembered() {
    let mut text = row("good") + "\n";
    for _ in 0..150 {
        text.push_str("{\"question\": 1}\n");
    }
    text.push_str(&row("also good"));
    let mut reader = RowReader::from_reader("rows", text.as_bytes(), options(OnBadRow::Skip)).unwrap();
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 2);
    assert_eq!(
        (reader.skipped().count(), reader.skipped().first().len()),
        (150, 100)
    );
    assert_eq!(reader.skipped().first()[0].line, 2);
}

#[test]
fn every_kind_of_damage_is_named() {
    let good = row("a");
    let cases: [(&[u8], &str); 12] = [
        (b"", "is empty"),
        (b"  \n ", "is empty"),
        (b"\x00\x01binary", "not a text file"),
        (b"PK\x03\x04zip", "zip archive"),
        (b"{\"question\": \"\xff\"}", "not valid UTF-8"),
        (
            b"{\"question\": \"\\ud800 \", \"answer\": \"\", \"correction\": \"\"}",
            "surrogate",
        ),
        (b"[1]", "is not an object"),
        (b"hello", "is not valid JSON"),
        (b"[", "the array is not closed"),
        (b"[] x", "behind the closing bracket"),
        (b"[{\"question\": \"q\"", "the file ends inside this row"),
        (
            b"{\"question\": \"q\", \"answer\": \"a\", \"correction\": \" \"}",
            "`correction` is empty",
        ),
    ];
    for (bytes, part) in cases {
        let message = error(bytes);
        assert!(
            message.contains(part),
            "{:?}: {message}",
            String::from_utf8_lossy(bytes)
        );
    }
    for (text, part) in [
        (format!("[{good},]"), "a comma stands before"),
        (format!("[{good} {good}]"), "a comma is missing"),
        (format!("[{good}"), "not closed"),
    ] {
        assert!(error(text.as_bytes()).contains(part), "{text}");
    }
}

#[test]
fn an_empty_array_has_no_rows() {
    assert_eq!(read(b"[ ]", OnBadRow::Stop).unwrap(), []);
}

#[test]
fn a_cut_gzip_is_an_error_and_joined_ones_are_one_file() {
    let whole = gzip(format!("{}\n{}\n", row("a"), row("b")).as_bytes());
    assert_eq!(read(&whole, OnBadRow::Stop).unwrap().len(), 2);
    assert!(matches!(
        read(&whole[..whole.len() - 9], OnBadRow::Skip),
        Err(DataError::Io { .. })
    ));
    let joined = [
        gzip(format!("{}\n", row("a")).as_bytes()),
        gzip(row("b").as_bytes()),
    ]
    .concat();
    assert_eq!(read(&joined, OnBadRow::Stop).unwrap().len(), 2);
}

#[test]
fn files_that_are_not_there_or_are_directories() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| {
        RowReader::open(path, ReadOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert!(open(&dir.path().join("none.jsonl")).contains("none.jsonl"));
    assert!(open(dir.path()).contains("is a directory"));
}

/// Gives rows for ever, a little at a time.
struct Endless {
    row: Vec<u8>,
    at: usize,
    left: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && self.left > 0 {
            let part = &self.row[self.at..];
            let taken = part.len().min(buffer.len() - filled).min(self.left as usize);
            buffer[filled..filled + taken].copy_from_slice(&part[..taken]);
            filled += taken;
            self.left -= taken as u64;
            self.at = (self.at + taken) % self.row.len();
        }
        Ok(filled)
    }
}

/// 400 MB of one array go by while the process grows by less than 60 MB.
#[test]
#[cfg(target_os = "linux")]
fn a_large_array_is_read_in_constant_memory() {
    fn resident_kilobytes() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }
    let row = format!("{},\n", row(&"x".repeat(20_000))).into_bytes();
    let rows = 400_000_000 / row.len() as u64;
    let endless = Endless {
        left: rows * row.len() as u64,
        row,
        at: 0,
    };
    let input = b"[".chain(endless);
    let before = resident_kilobytes();
    let mut reader = RowReader::from_reader("rows", input, options(OnBadRow::Stop)).unwrap();
    let mut seen = 0;
    let mut largest = 0;
    for record in reader.by_ref() {
        // The array is not closed: its end is an error, the rows before it are not.
        if record.is_err() {
            break;
        }
        seen += 1;
        if seen % 1000 == 0 {
            largest = largest.max(resident_kilobytes());
        }
    }
    assert_eq!(seen, rows);
    assert!(
        largest < before + 60_000,
        "{before} kB before, {largest} kB while reading"
    );
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[\\PC\n\"\\\\{}\\[\\],]{1,40}", 1..8)
}

proptest! {
    #[test]
    fn array_lines_and_gzip_give_the_same_rows(texts in texts()) {
        let rows: Vec<String> = texts.iter().map(|text| row(text)).collect();
        let lines = rows.join("\n");
        let array = format!("[{}]", rows.join(" ,\n"));
        let answers = |bytes: &[u8]| -> Vec<String> {
            read(bytes, OnBadRow::Stop).unwrap().into_iter().map(|record| record.answer).collect()
        };
        for bytes in [lines.as_bytes(), array.as_bytes(), &gzip(lines.as_bytes()), &gzip(array.as_bytes())] {
            prop_assert_eq!(&answers(bytes), &texts);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..200), array: bool) {
        let bytes = if array { [b"[{".to_vec(), bytes].concat() } else { bytes };
        for policy in [OnBadRow::Stop, OnBadRow::Skip] {
            if let Ok(reader) = RowReader::from_reader("rows", &bytes[..], options(policy)) {
                prop_assert!(reader.take(1000).count() < 1000);
            }
        }
    }

    #[test]
    fn json_like_noise_neither(text in "[\\[\\]{},:\" a\\\\\n]{0,60}") {
        if let Ok(reader) = RowReader::from_reader("rows", text.as_bytes(), options(OnBadRow::Skip)) {
            prop_assert!(reader.take(1000).count() < 1000);
        }
    }
}
