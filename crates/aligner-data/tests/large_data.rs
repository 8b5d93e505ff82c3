//! Memory of a large data set. Alone in its program, because what it measures is the whole process.
//!
//! `ALIGNER_TEST_ROWS=10000000` takes that many rows instead; with `--nocapture` the numbers are printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(target_os = "linux")]

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use aligner_data::synthetic::train_tokenizer;
use aligner_data::{
    Cursor, Dataset, Encoder, LoadOptions, PromptTemplate, ReadOptions, Record, RowReader, TokenCache,
};

const ROWS: u64 = 400_000;

/// What building may add to resident memory, and using to what the process itself allocates.
const BUILD_BYTES: u64 = 40 << 20;
const USE_BYTES: u64 = 8 << 20;

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kilobytes: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
    kilobytes * 1024
}

fn write_rows(path: &Path, rows: u64) {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    for row in 0..rows {
        let (a, b) = (row % 977, row % 1009);
        writeln!(
            file,
            r#"{{"question": "What is {a} plus {b}?", "answer": "It is {}.", "correction": "It is {}."}}"#,
            a + b + row % 3,
            a + b
        )
        .unwrap();
    }
    file.flush().unwrap();
}

fn encoder(dir: &Path, file: &Path) -> Encoder {
    let reader = RowReader::open(file, ReadOptions::default()).unwrap();
    let rows: Vec<Record> = reader.take(2000).collect::<Result<_, _>>().unwrap();
    let tokenizer = train_tokenizer(&rows, &PromptTemplate::default(), 600, dir).unwrap();
    Encoder::new(tokenizer, PromptTemplate::default(), 512)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[test]
fn memory_does_not_grow_with_the_rows() {
    let rows = std::env::var("ALIGNER_TEST_ROWS").map_or(ROWS, |rows| rows.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file: PathBuf = dir.path().join("rows.jsonl");
    write_rows(&file, rows);
    let encoder = encoder(&dir.path().join("tokenizer"), &file);
    let options = LoadOptions {
        cache: TokenCache {
            dir: Some(dir.path().join("cache")),
            in_memory_bytes: 1 << 20,
            ..TokenCache::default()
        },
        ..LoadOptions::default()
    };
    // The peak so far is the tokenizer's training: from here on it counts anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmHWM");
    let started = Instant::now();
    let load = || Dataset::load(std::slice::from_ref(&file), &encoder, &options).unwrap();
    let built = load();
    let seconds = started.elapsed().as_secs_f64();
    let grown = status("VmHWM") - before;
    let tokens = built.tokens() as u64;
    println!(
        "{rows} rows, {tokens} tokens, {:.0} MiB of them on the disk: tokenised in {seconds:.1} s, {:.0} rows/s, \
         {:.0} tokens/s; resident memory peaked at {:.0} MiB, {:.0} MiB more than before",
        megabytes(4 * tokens),
        rows as f64 / seconds,
        tokens as f64 / seconds,
        megabytes(status("VmHWM")),
        megabytes(grown),
    );
    assert!(4 * tokens > BUILD_BYTES, "too few rows to tell");
    assert!(grown < BUILD_BYTES, "building took {:.0} MiB", megabytes(grown));
    let fingerprint = built.fingerprint();
    drop(built);

    let before = status("RssAnon");
    let started = Instant::now();
    let read = load();
    println!("taken from the cache in {:.2} s", started.elapsed().as_secs_f64());
    assert_eq!(read.fingerprint(), fingerprint);
    let order = read.order(1, true, None).unwrap();
    let mut cursor = Cursor::default();
    let started = Instant::now();
    let mut seen = 0;
    for _ in 0..read.len() {
        seen += read.example(cursor.next(&order)).unwrap().ids.len() as u64;
    }
    assert_eq!(seen, tokens);
    let grown = status("RssAnon").saturating_sub(before);
    println!(
        "one shuffled pass: {:.0} rows/s; {:.1} MiB allocated, {:.0} MiB of pages that the system may take back",
        rows as f64 / started.elapsed().as_secs_f64(),
        megabytes(grown),
        megabytes(status("RssFile")),
    );
    assert!(grown < USE_BYTES, "using took {:.1} MiB", megabytes(grown));
}
