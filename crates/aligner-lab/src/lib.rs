//! A tiny model and its rows, for the tests of this workspace. It is a dev-dependency alone and is not published.

// What fails here fails in a test.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use aligner_data::synthetic::train_tokenizer;
use aligner_data::{PromptTemplate, Record};
use aligner_model::{CausalDecoder, DeviceSpec, LlamaShape, ModelConfig, save_dir};

/// Makes the directory of a Llama model of two small layers with random weights, the same in every run, and a tokenizer that
/// was trained on `rows`. It learns the generated task's corrections in a few dozen steps.
pub fn tiny_model(rows: &[Record], dir: &Path) {
    let tokenizer = train_tokenizer(rows, &PromptTemplate::default(), 320, dir).unwrap();
    let shape = LlamaShape {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        max_positions: 256,
    };
    let config = ModelConfig::llama(shape)
        .unwrap()
        .with_token_ids(None, tokenizer.eos_id());
    let decoder = CausalDecoder::random(&config, 9, &DeviceSpec::Cpu.open().unwrap()).unwrap();
    save_dir(&config, &decoder, dir).unwrap();
}

/// Writes rows with all their fields, one JSON object a line.
pub fn write_rows(rows: &[Record], path: &Path) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    for row in rows {
        writeln!(file, "{}", serde_json::to_string(&row.raw).unwrap()).unwrap();
    }
    file.flush().unwrap();
}
