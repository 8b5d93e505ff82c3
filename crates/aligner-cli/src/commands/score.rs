//! `aligner score`

use std::io::Write;

use aligner_data::{Fields, ReadOptions, RowReader};
use aligner_infer::Input;

use super::open;
use crate::args::ScoreArgs;
use crate::error::{CliError, Result, stdout_error};
use crate::terminal::{progress, say};

/// Prints a JSON object a row: `logprob`, `tokens`, `prompt_tokens` and, when asked, `token_logprobs` and
/// `token_argmax`.
pub fn run(args: &ScoreArgs) -> Result<()> {
    let corrector = open(&args.model)?;
    let options = ReadOptions {
        columns: args.rows.columns.clone(),
        fields: Fields::Triple,
        on_bad_row: args.rows.on_bad_row(),
        format: args.rows.format,
        ..ReadOptions::default()
    };
    let mut reader = RowReader::open(&args.input, options)?;
    let mut stdout = std::io::stdout().lock();
    let bar = progress(args.rows.limit.map(|limit| limit as u64), "scoring");
    for record in reader.by_ref().take(args.rows.limit.unwrap_or(usize::MAX)) {
        let record = record?;
        let input = Input {
            question: &record.question,
            answer: &record.answer,
            chat_history: &record.chat_history,
        };
        let score = corrector
            .score(input, record.correction.as_deref().unwrap_or_default())
            .map_err(|error| CliError::Failed(format!("{}: {error}", record.origin)))?;
        let mut line = serde_json::json!({
            "logprob": score.logprob, "tokens": score.tokens, "prompt_tokens": score.prompt_tokens
        });
        if args.per_token {
            line["token_logprobs"] = score.token_logprobs.into();
            line["token_argmax"] = score.token_argmax.into();
        }
        writeln!(stdout, "{line}").map_err(stdout_error)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if reader.skipped().count() > 0 {
        say(format!(
            "{} rows left out, the first: {}",
            reader.skipped().count(),
            reader.skipped().first()[0]
        ));
    }
    Ok(())
}
