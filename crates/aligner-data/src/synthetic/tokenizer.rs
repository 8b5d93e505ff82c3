//! A tokenizer for the generated task.

use std::path::Path;

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as HfTokenizer};

use crate::error::{DataError, Result};
use crate::record::Record;
use crate::template::PromptTemplate;
use crate::tokenizer::Tokenizer;

const EOS: &str = "<eos>";
const PAD: &str = "<pad>";

/// A byte-level BPE without merges, to be trained: any text can be encoded, whatever it was trained on.
const UNTRAINED: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {}, "merges": []}
}"#;

/// Trains a byte-level BPE tokenizer of `vocab_size` tokens on prompts and corrections, writes it into `dir`, and reads
/// it back.
///
/// # Errors
/// When the files cannot be written.
pub fn train_tokenizer(
    records: &[Record],
    template: &PromptTemplate,
    vocab_size: usize,
    dir: &Path,
) -> Result<Tokenizer> {
    let error = |cause| DataError::tokenizer(dir, cause);
    let mut tokenizer = HfTokenizer::from_bytes(UNTRAINED).map_err(error)?;
    let specials = [PAD, EOS].map(|text| AddedToken::from(text, true));
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .show_progress(false)
        .special_tokens(specials.to_vec())
        .initial_alphabet(alphabet.into_iter().collect())
        .build();
    let texts = records.iter().flat_map(|record| {
        let prompt = template.render(&record.question, &record.answer, &record.chat_history);
        [prompt, record.correction.clone().unwrap_or_default()]
    });
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), texts)
        .map_err(error)?;
    std::fs::create_dir_all(dir).map_err(DataError::io("create", dir))?;
    tokenizer.save(dir.join("tokenizer.json"), false).map_err(error)?;
    let path = dir.join("tokenizer_config.json");
    let declared = serde_json::json!({
        "eos_token": EOS, "pad_token": PAD, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024
    });
    std::fs::write(&path, format!("{declared:#}\n")).map_err(DataError::io("write", &path))?;
    Tokenizer::from_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::CorrectionTask;

    #[test]
    fn training_is_deterministic_and_short_rows_stay_short() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let records = CorrectionTask::new(7).train(2000);
        let template = PromptTemplate::default();
        let tokenizer = train_tokenizer(&records, &template, 512, dir.path()).unwrap();
        let again = train_tokenizer(&records, &template, 512, other.path()).unwrap();
        assert_eq!(tokenizer.hash(), again.hash());
        assert!(tokenizer.vocab_size() <= 512);
        let encoder = crate::Encoder::new(tokenizer, template, 128);
        let lengths: Vec<usize> = records
            .iter()
            .map(|record| encoder.encode(record).unwrap().0.len())
            .collect();
        let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
        assert!(mean < 60.0, "{mean} tokens a row");
    }

    #[test]
    fn any_text_survives_and_special_tokens_stay_text() {
        let dir = tempfile::tempdir().unwrap();
        let records = CorrectionTask::new(7).train(200);
        let tokenizer = train_tokenizer(&records, &PromptTemplate::default(), 400, dir.path()).unwrap();
        for text in [
            "Grüße, 世界 🦀",
            "<eos> and <pad>",
            "\u{0}\t\r\n",
            "  two  spaces ",
        ] {
            let ids = tokenizer.encode_target(text).unwrap();
            assert!(!ids.contains(&tokenizer.eos_id()));
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            let mut stream = tokenizer.stream();
            let mut streamed: String = ids.iter().filter_map(|&id| stream.push(id).unwrap()).collect();
            streamed.extend(stream.finish().unwrap());
            assert_eq!(streamed, text);
        }
    }
}
