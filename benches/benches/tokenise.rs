//! Tokenising a file of rows into a data set, against the same work on one thread; the result from the cache beside it.
//!
//! Reported as tokens a second.

use std::fmt::Write;
use std::path::Path;

use aligner_data::synthetic::{CorrectionTask, train_tokenizer};
use aligner_data::{
    Dataset, Encoder, LoadOptions, PromptTemplate, ReadOptions, Result, RowReader, TokenCache,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const ROWS: usize = 20_000;

/// Rows in a file, and an encoder for them.
fn prepare(dir: &Path) -> Result<Encoder> {
    let rows = CorrectionTask::new(1).train(ROWS);
    let mut text = String::new();
    for row in &rows {
        let _ = writeln!(text, "{}", serde_json::Value::Object(row.raw.clone()));
    }
    let path = dir.join("rows.jsonl");
    std::fs::write(&path, text).map_err(|source| aligner_data::DataError::Io {
        action: "write",
        path,
        source,
    })?;
    let template = PromptTemplate::default();
    let tokenizer = train_tokenizer(&rows[..2000], &template, 1280, &dir.join("tokenizer"))?;
    Ok(Encoder::new(tokenizer, template, 512))
}

fn on_one_thread(file: &Path, encoder: &Encoder) -> Result<usize> {
    let mut tokens = 0;
    for record in RowReader::open(file, ReadOptions::default())? {
        tokens += encoder.encode(&record?)?.0.len();
    }
    Ok(tokens)
}

#[allow(clippy::expect_used)] // files of this bench alone
fn tokenise(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let encoder = prepare(dir.path()).expect("rows can be written");
    let file = dir.path().join("rows.jsonl");
    let files = [file.clone()];
    let tokens = on_one_thread(&file, &encoder).expect("rows can be read");
    let options = |cache: TokenCache| LoadOptions {
        cache,
        ..LoadOptions::default()
    };
    let in_files = TokenCache {
        in_memory_bytes: 0,
        ..TokenCache::default()
    };
    let cached = TokenCache {
        dir: Some(dir.path().join("cache")),
        ..in_files.clone()
    };
    let load = |cache: &TokenCache| {
        let rows = Dataset::load(&files, &encoder, &options(cache.clone())).expect("rows can be read");
        assert_eq!(rows.tokens(), tokens);
    };
    load(&cached);
    let mut group = criterion.benchmark_group("tokenise");
    group.sample_size(10);
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function("one thread", |bencher| {
        bencher.iter(|| on_one_thread(&file, &encoder).expect("rows can be read"));
    });
    group.bench_function("all threads, in memory", |bencher| {
        bencher.iter(|| load(&TokenCache::default()));
    });
    group.bench_function("all threads, in files", |bencher| {
        bencher.iter(|| load(&in_files))
    });
    group.bench_function("from the cache", |bencher| bencher.iter(|| load(&cached)));
}

criterion_group!(benches, tokenise);
criterion_main!(benches);
