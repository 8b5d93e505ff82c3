//! The predicted peak against that of real runs of the command, on models with new weights of other shapes than the one that
//! the plan's shares were measured on. Each run is a process of its own.
//!
//! `ALIGNER_TEST_LONG=1 cargo test --release -p aligner-cli --test memory -- --nocapture` runs all and prints a table.

#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use aligner_data::synthetic::{CorrectionTask, train_tokenizer};
use aligner_data::{PromptTemplate, Tokenizer};
use aligner_model::{CausalDecoder, DeviceSpec, LlamaShape, ModelConfig, save_dir};
use serde_json::Value;

/// How far the prediction may be off, as a share of what is measured.
const TOLERANCE: f64 = 0.10;

struct Model {
    name: &'static str,
    shape: LlamaShape,
    is_tied: bool,
}

/// 20 M weights, deep and narrow.
const DEEP: Model = Model {
    name: "deep",
    shape: LlamaShape {
        vocab_size: 4000,
        hidden_size: 256,
        intermediate_size: 768,
        layers: 24,
        heads: 4,
        kv_heads: 2,
        max_positions: 2048,
    },
    is_tied: true,
};

/// 40 M weights, wide and shallow, with an output projection of its own and as many key heads as query heads.
const WIDE: Model = Model {
    name: "wide",
    shape: LlamaShape {
        vocab_size: 8000,
        hidden_size: 768,
        intermediate_size: 2048,
        layers: 4,
        heads: 12,
        kv_heads: 12,
        max_positions: 2048,
    },
    is_tied: false,
};

/// 122 M weights, of which half are the embedding.
const VOCABULARY: Model = Model {
    name: "vocabulary",
    shape: LlamaShape {
        vocab_size: 65_536,
        hidden_size: 960,
        intermediate_size: 2560,
        layers: 6,
        heads: 15,
        kv_heads: 5,
        max_positions: 2048,
    },
    is_tied: true,
};

/// One case for every test run; all of them take ten minutes.
const QUICK: (&Model, usize, usize, &str) = (&DEEP, 4, 256, "");
const ALL: &[(&Model, usize, usize, &str)] = &[
    (&DEEP, 8, 512, ""),
    (&DEEP, 1, 1024, ""),
    (&DEEP, 4, 512, "--lora-rank 16"),
    (&DEEP, 8, 512, "--checkpointing"),
    (&DEEP, 4, 512, "--lora-rank 16 --checkpointing"),
    (&WIDE, 4, 512, ""),
    (&WIDE, 4, 512, "--precision bf16"),
    (&WIDE, 8, 128, ""),
    (&WIDE, 8, 512, "--lora-rank 16"),
    (&WIDE, 4, 1024, "--checkpointing"),
    (&WIDE, 1, 512, "--accumulate 2"),
    (&VOCABULARY, 4, 512, ""),
    (&VOCABULARY, 1, 128, ""),
    (&VOCABULARY, 4, 512, "--lora-rank 16"),
    (&VOCABULARY, 4, 512, "--precision bf16"),
    (&VOCABULARY, 1, 1024, "--checkpointing"),
    (&VOCABULARY, 4, 128, "--accumulate 2"),
];

/// A model directory with new weights, and a tokenizer of a few hundred tokens.
fn write_model(model: &Model, dir: &Path) -> Tokenizer {
    let template = PromptTemplate::default();
    let tokenizer = train_tokenizer(&CorrectionTask::new(5).train(120), &template, 320, dir).unwrap();
    let shape = model.shape;
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "vocab_size": shape.vocab_size, "hidden_size": shape.hidden_size, "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.max_positions, "tie_word_embeddings": model.is_tied,
    });
    let config = ModelConfig::parse(dir, json.to_string().as_bytes()).unwrap();
    let config = config.with_token_ids(None, tokenizer.eos_id());
    let decoder = CausalDecoder::random(&config, 9, &DeviceSpec::Cpu.open().unwrap()).unwrap();
    save_dir(&config, &decoder, dir).unwrap();
    tokenizer
}

/// Rows of as nearly `length` tokens as words allow, of which about half are targets.
fn write_rows(tokenizer: &Tokenizer, length: usize, path: &Path) {
    let template = PromptTemplate::default();
    let prompt = |answer: &str| {
        let ids = tokenizer.encode_prompt(&template, "q", answer, &[]).unwrap();
        ids.len()
    };
    let texts = (1..length).map(|words| "red cat ".repeat(words));
    let row_tokens = |text: &str| 2 * prompt(text) - prompt("") + 1;
    let text = texts
        .take_while(|text| row_tokens(text) <= length)
        .last()
        .unwrap();
    assert!(row_tokens(&text) + 16 > length, "rows are as long as they can be");
    let mut file = std::fs::File::create(path).unwrap();
    for _ in 0..64 {
        let row = serde_json::json!({ "question": "q", "answer": text, "correction": text });
        writeln!(file, "{row}").unwrap();
    }
}

fn aligner(dir: &Path, arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_aligner"))
        .current_dir(dir)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "aligner {arguments}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// Predicted and measured peak, in bytes, after three steps.
fn peaks(dir: &Path, micro_batch: usize, length: usize, flags: &str) -> (u64, u64) {
    let accumulate = if flags.contains("--accumulate") {
        ""
    } else {
        "--accumulate 1"
    };
    let run = format!("--micro-batch {micro_batch} --max-length {length} {accumulate} {flags}");
    let plan = aligner(dir, &format!("plan --model model --probe false --json {run}"));
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let out = dir.join("run");
    let quiet = "--save-every 0 --eval-sample 0 --no-report --no-tensorboard --no-dashboard";
    aligner(
        dir,
        &format!("train --model model --data rows.jsonl --steps 3 --warmup-share 0 --out run {quiet} {run}"),
    );
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    std::fs::remove_dir_all(out).unwrap();
    (
        plan["peak"]["total_bytes"].as_u64().unwrap(),
        last["peak_rss_bytes"].as_u64().unwrap(),
    )
}

#[test]
fn the_predicted_peak_is_the_measured_one() {
    let is_long = std::env::var_os("ALIGNER_TEST_LONG").is_some();
    if !is_long {
        println!("most skipped: ALIGNER_TEST_LONG=1 measures models of three shapes");
    }
    let cases = if is_long { ALL } else { &[QUICK] };
    let mut wrong = Vec::new();
    for model in [&DEEP, &WIDE, &VOCABULARY] {
        let cases = cases.iter().filter(|case| case.0.name == model.name);
        let mut dir = None;
        for &(_, micro_batch, length, flags) in cases {
            let place = dir.get_or_insert_with(|| {
                let dir = tempfile::tempdir().unwrap();
                let tokenizer = write_model(model, &dir.path().join("model"));
                (dir, tokenizer)
            });
            let dir = place.0.path();
            write_rows(&place.1, length, &dir.join("rows.jsonl"));
            let (predicted, measured) = peaks(dir, micro_batch, length, flags);
            let off = predicted as f64 / measured as f64 - 1.0;
            let line = format!(
                "| {} | {micro_batch} × {length} {flags} | {:.3} GB | {:.3} GB | {:+.1} % |",
                model.name,
                predicted as f64 / 1e9,
                measured as f64 / 1e9,
                100.0 * off
            );
            println!("{line}");
            if off.abs() > TOLERANCE {
                wrong.push(line);
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "off by more than a tenth:\n{}",
        wrong.join("\n")
    );
}
