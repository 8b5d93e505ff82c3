//! A run over more rows than stay in memory: tokenised once, and tokenised anew when the cache is damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aligner_data::PromptTemplate;
use aligner_data::synthetic::{CorrectionTask, train_tokenizer};
use aligner_model::{CausalDecoder, DeviceSpec, LlamaShape, ModelConfig, save_dir};

fn prepare(dir: &Path) {
    let rows = CorrectionTask::new(5).train(9000);
    let tokenizer =
        train_tokenizer(&rows[..100], &PromptTemplate::default(), 320, &dir.join("base")).unwrap();
    let shape = LlamaShape {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 32,
        intermediate_size: 48,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        max_positions: 256,
    };
    let config = ModelConfig::llama(shape)
        .unwrap()
        .with_token_ids(None, tokenizer.eos_id());
    let decoder = CausalDecoder::random(&config, 9, &DeviceSpec::Cpu.open().unwrap()).unwrap();
    save_dir(&config, &decoder, &dir.join("base")).unwrap();
    // A file of more than 32 MiB, most of it in a column that nobody reads.
    let mut file = BufWriter::new(std::fs::File::create(dir.join("rows.jsonl")).unwrap());
    let note = "x".repeat(4096);
    for mut row in rows {
        row.raw.insert("note".into(), note.clone().into());
        writeln!(file, "{}", serde_json::to_string(&row.raw).unwrap()).unwrap();
    }
    file.flush().unwrap();
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
