//! A run over more rows than stay in memory: tokenised once, and tokenised anew when the cache is damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aligner_data::synthetic::CorrectionTask;

fn prepare(dir: &Path) {
    let mut rows = CorrectionTask::new(5).train(9000);
    aligner_lab::tiny_model(&rows[..100], &dir.join("base"));
    // A file of more than 32 MiB, most of it in a column that nobody reads.
    let note = "x".repeat(4096);
    for row in &mut rows {
        row.raw.insert("note".into(), note.clone().into());
    }
    aligner_lab::write_rows(&rows, &dir.join("rows.jsonl"));
}

fn aligner(dir: &Path, arguments: &str) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aligner"));
    let command = command.current_dir(dir).env("ALIGNER_CACHE", dir.join("cache"));
    let output = command.args(arguments.split_whitespace()).output().unwrap();
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    (output, said)
}

#[test]
fn a_run_over_damaged_tokens_stops_with_their_name_and_is_resumed() {
    // Without rows to copy, so that there is one entry.
    const TRAIN: &str = "train --model base --data rows.jsonl --steps 4 --micro-batch 4 --accumulate 1 --max-length 256 \
                         --warmup-share 0";
    let owner = tempfile::tempdir().unwrap();
    let dir = owner.path();
    prepare(dir);
    let (output, said) = aligner(dir, &format!("{TRAIN} --out one"));
    assert!(output.status.success(), "{said}");
    let entries: Vec<PathBuf> = std::fs::read_dir(dir.join("cache/tokens"))
        .unwrap()
        .map(|found| found.unwrap().path())
        .collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let tokens = entries[0].join("tokens");
    let good = std::fs::read(&tokens).unwrap();
    let bad: Vec<u8> = good.iter().map(|byte| byte ^ 1).collect();
    std::fs::write(&tokens, bad).unwrap();
    let (output, said) = aligner(dir, &format!("{TRAIN} --out two"));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("are damaged"), "{said}");
    let (output, said) = aligner(dir, "train --resume --out two");
    assert!(output.status.success(), "{said}");
    assert_eq!(std::fs::read(&tokens).unwrap(), good);
    let weights = |run: &str| std::fs::read(dir.join(run).join("final/model.safetensors")).unwrap();
    assert!(weights("one") == weights("two"));
}
