//! `aligner data check` and `aligner data show`

use std::io::Write;

use aligner_data::{
    AlignerManifest, CheckOptions, Encoder, Fields, OnBadRow, PromptTemplate, ReadOptions, Record, RowReader,
    Tokenizer, check_files,
};
use aligner_hub::Files;
use anstyle::{AnsiColor, Style};

use crate::args::{CheckArgs, ShowArgs, template};
use crate::error::{CliError, Result, stdout_error};
use crate::hub;
use crate::runs::model_dir;
use crate::terminal::{stdout_is_coloured, styled};

/// Prints a report on files.
pub fn check(args: &CheckArgs) -> Result<()> {
    let template = template(&args.template)?;
    let encoder = match &args.model {
        Some(model) => {
            let tokenizer = Tokenizer::from_dir(&hub::local(model, Files::Tokenizer)?)?;
            Some(Encoder::new(tokenizer, template.clone(), args.max_length))
        }
        None => None,
    };
    let options = CheckOptions {
        read: ReadOptions {
            columns: args.columns.clone(),
            format: args.format,
            ..ReadOptions::default()
        },
        encoder: encoder.as_ref(),
        template,
        valid: args.valid.clone(),
        benchmarks: args.benchmark.clone(),
        ngram: args.ngram,
        near_threshold: args.near,
        micro_batch: args.micro_batch,
        examples: args.examples,
    };
    let report = check_files(&args.files, &options)?;
    let text = if args.json {
        serde_json::to_string(&report).map_err(|error| CliError::Failed(error.to_string()))?
    } else {
        report.to_string().trim_end().to_string()
    };
    writeln!(std::io::stdout(), "{text}").map_err(stdout_error)?;
    let failures: Vec<&str> = report
        .failures(args.fail_on)
        .map(|finding| finding.message.as_str())
        .collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(failures.join("; ")))
}

/// Prints a row's tokens: on a terminal as text whose loss-carrying part is green, elsewhere as a table.
pub fn show(args: &ShowArgs) -> Result<()> {
    let dir = model_dir(args.model.as_deref(), Files::Tokenizer)?;
    let tokenizer = Tokenizer::from_dir(&dir)?;
    let template = match (&args.template, AlignerManifest::read(&dir)?) {
        (Some(typed), _) => template(typed)?,
        (None, Some(manifest)) => manifest.template,
        (None, None) => PromptTemplate::default(),
    };
    let options = ReadOptions {
        columns: args.columns.clone(),
        fields: Fields::Triple,
        // A bad row before the one that is asked for does not matter.
        on_bad_row: OnBadRow::Skip,
        format: args.format,
        ..ReadOptions::default()
    };
    let record = row(RowReader::open(&args.file, options)?, args)?;
    let encoder = Encoder::new(tokenizer, template, usize::MAX);
    let (ids, prompt_len) = encoder.encode_any_length(&record)?;
    let text = if stdout_is_coloured() {
        coloured(encoder.tokenizer(), &ids, prompt_len)?
    } else {
        table(encoder.tokenizer(), &ids, prompt_len)?
    };
    writeln!(std::io::stdout(), "{text}").map_err(stdout_error)
}

/// The row as the file counts it, as `data check` names it: rows that are left out are counted.
fn row(mut reader: RowReader<'_>, args: &ShowArgs) -> Result<Record> {
    let wanted = args.row as u64;
    for record in reader.by_ref() {
        let record = record?;
        if record.origin.row == wanted {
            return Ok(record);
        }
        if record.origin.row > wanted {
            break;
        }
    }
    let place = format!("{} has no row {wanted}", args.file.display());
    let skipped = reader.skipped();
    let mut remembered = skipped.first().iter().chain(skipped.first_bad());
    let left_out = remembered.find(|left| left.row == wanted);
    Err(CliError::Usage(match left_out {
        Some(left_out) => format!("{place} to show: {left_out}"),
        None if reader.rows_read() > wanted => {
            format!("{place} to show: it cannot be read, or holds no pair of answers")
        }
        None => format!("{place} (rows are counted from 0)"),
    }))
}

/// Tokens apart from each other by their shade, those that carry loss in green.
fn coloured(tokenizer: &Tokenizer, ids: &[u32], prompt_len: usize) -> Result<String> {
    let mut text = String::new();
    for (position, &id) in ids.iter().enumerate() {
        let colour = if position < prompt_len {
            AnsiColor::BrightBlack
        } else {
            AnsiColor::Green
        };
        let mut style = Style::new().fg_color(Some(colour.into()));
        if position % 2 == 1 {
            style = style.underline();
        }
        let piece = tokenizer.decode(&[id])?;
        let piece = if piece.is_empty() {
            tokenizer.token_text(id)
        } else {
            piece
        };
        text.push_str(&styled(&piece.replace('\n', "⏎\n"), style, true));
    }
    let counts = format!(
        "\n\n{prompt_len} prompt tokens, {} tokens that carry loss (green)",
        ids.len() - prompt_len
    );
    Ok(text + &counts)
}

fn table(tokenizer: &Tokenizer, ids: &[u32], prompt_len: usize) -> Result<String> {
    let mut text = String::from("position\tid\tloss\ttoken\ttext");
    for (position, &id) in ids.iter().enumerate() {
        let loss = u8::from(position >= prompt_len);
        let token = tokenizer.token_text(id);
        text.push_str(&format!(
            "\n{position}\t{id}\t{loss}\t{token}\t{:?}",
            tokenizer.decode(&[id])?
        ));
    }
    Ok(text)
}
