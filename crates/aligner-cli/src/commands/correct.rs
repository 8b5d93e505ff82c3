//! `aligner correct`

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use aligner_data::{DataError, Fields, ReadOptions, Record, RowReader};
use aligner_infer::{CancelToken, CorrectOptions, Correction, Corrector, FinishReason, Piece, diff};
use indicatif::ProgressBar;
use serde_json::{Map, Value};

use super::builder;
use super::rows::{ADDED, Rows};
use crate::args::CorrectArgs;
use crate::error::{CliError, Result, stdout_error};
use crate::terminal::{progress, render_diff, say, stdout_is_coloured};

/// Corrects one answer or a file.
pub fn run(args: &CorrectArgs) -> Result<()> {
    let options = CorrectOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: args.sampling(),
        long_answers: args.long,
        draft: args.draft(),
        prediction: None,
        cancel: CancelToken::default(),
    };
    options.sampling.validate()?;
    let corrector = builder(&args.model)?.strength(args.strength).build()?;
    cancel_on_signal(&options.cancel)?;
    match (&args.input, &args.question, &args.answer) {
        (Some(input), ..) => batch(&corrector, input, args, &options),
        (None, Some(question), Some(answer)) if args.stream => stream(&corrector, question, answer, &options),
        (None, Some(question), Some(answer)) => one(&corrector, question, answer, args.diff, &options),
        _ => Err(CliError::Usage("give --question and --answer, or --input".into())),
    }
}

fn cancel_on_signal(cancel: &CancelToken) -> Result<()> {
    let cancel = cancel.clone();
    let handler = move || {
        if cancel.is_cancelled() {
            std::process::exit(130);
        }
        cancel.cancel();
    };
    ctrlc::set_handler(handler).map_err(|error| CliError::Failed(format!("cannot catch signals: {error}")))
}

fn one(
    corrector: &Corrector,
    question: &str,
    answer: &str,
    as_diff: bool,
    options: &CorrectOptions,
) -> Result<()> {
    let correction = corrector.correct(question, answer, options)?;
    let text = if as_diff {
        render_diff(&diff(answer, &correction.text), stdout_is_coloured())
    } else {
        correction.text.clone()
    };
    writeln!(std::io::stdout(), "{text}").map_err(stdout_error)?;
    warn_if_cut(&correction);
    Ok(())
}

fn stream(corrector: &Corrector, question: &str, answer: &str, options: &CorrectOptions) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for piece in corrector.stream(question, answer, options) {
        match piece? {
            Piece::Text(text) => {
                stdout
                    .write_all(text.as_bytes())
                    .and_then(|()| stdout.flush())
                    .map_err(stdout_error)?;
            }
            Piece::Done(correction) => {
                writeln!(stdout).map_err(stdout_error)?;
                warn_if_cut(&correction);
                say(account(&correction));
            }
        }
    }
    Ok(())
}

/// What a correction took, for people.
fn account(correction: &Correction) -> String {
    let Correction { usage, timings, .. } = correction;
    let drafted = match usage.draft_proposed {
        0 => String::new(),
        proposed => format!(", {} of {proposed} drafted tokens right", usage.draft_accepted),
    };
    format!(
        "{} tokens of prompt in {:.2} s, {} tokens in {:.2} s{drafted}",
        usage.prompt_tokens, timings.prefill_seconds, usage.completion_tokens, timings.decode_seconds
    )
}

fn warn_if_cut(correction: &Correction) {
    match correction.finish_reason {
        FinishReason::Stop => {}
        FinishReason::Length => {
            say(format!(
                "the correction was cut after {} tokens (--max-new-tokens)",
                correction.usage.completion_tokens
            ));
        }
        FinishReason::Cancelled => say("cancelled"),
    }
}

fn batch(corrector: &Corrector, input: &Path, args: &CorrectArgs, options: &CorrectOptions) -> Result<()> {
    let read = ReadOptions {
        columns: args.rows.columns.clone(),
        fields: Fields::Pair,
        on_bad_row: args.rows.on_bad_row(),
        format: args.rows.format,
        ..ReadOptions::default()
    };
    let mut reader = RowReader::open(input, read)?;
    let mut output = match &args.output {
        Some(path) => Output::open(path, input, args.overwrite)?,
        None => Output::stdout(),
    };
    let limit = args.rows.limit.unwrap_or(usize::MAX);
    if output.done.len() > limit {
        let done = output.done.len();
        return Err(CliError::Usage(format!(
            "the output holds {done} rows already, more than --limit {limit}"
        )));
    }
    let bar = progress(args.rows.limit.map(|limit| limit as u64), "correcting");
    let mut rows = Rows::new(corrector, args, options);
    let corrected = correct_rows(&mut reader.by_ref().take(limit), &mut rows, &mut output, &bar);
    bar.finish_and_clear();
    corrected?;
    if reader.skipped().count() > 0 {
        say(format!(
            "{} rows left out, the first: {}",
            reader.skipped().count(),
            reader.skipped().first()[0]
        ));
    }
    Ok(())
}

/// Writes each row with its correction, in order, behind those that are written already.
fn correct_rows(
    records: &mut dyn Iterator<Item = Result<Record, DataError>>,
    rows: &mut Rows<'_>,
    output: &mut Output,
    bar: &ProgressBar,
) -> Result<()> {
    let mut unreadable = None;
    for (index, record) in records.enumerate() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                // What was read before it is still corrected.
                unreadable = Some(error);
                break;
            }
        };
        if let Some(done) = output.done.get(index) {
            check_same(done, &record)?;
            bar.inc(1);
        } else if let Some(row) = rows.take(record, index as u64)? {
            output.write(&row)?;
            bar.inc(1);
        }
    }
    while let Some(row) = rows.next()? {
        output.write(&row)?;
        bar.inc(1);
    }
    unreadable.map_or(Ok(()), |error| Err(error.into()))
}

/// The rows already written must be those of this input, or the file would mix two.
fn check_same(done: &Map<String, Value>, record: &Record) -> Result<()> {
    let same = record
        .raw
        .iter()
        .all(|(key, value)| done.get(key) == Some(value) || ADDED.contains(&key.as_str()));
    if same {
        return Ok(());
    }
    let reason = "the output holds another row there; give another --output, or --overwrite";
    Err(CliError::Usage(format!("{}: {reason}", record.origin)))
}

/// Where corrected rows go, and those that are there already.
struct Output {
    file: Option<File>,
    done: Vec<Map<String, Value>>,
}

impl Output {
    fn stdout() -> Self {
        Self {
            file: None,
            done: Vec::new(),
        }
    }

    fn open(path: &Path, input: &Path, overwrite: bool) -> Result<Self> {
        if let (Ok(output), Ok(input)) = (path.canonicalize(), input.canonicalize())
            && output == input
        {
            let output = path.display();
            return Err(CliError::Usage(format!(
                "--output is --input, {output}: give another --output"
            )));
        }
        let io = || CliError::io("write", path);
        let file = OpenOptions::new()
            .read(true)
            .create(true)
            .append(true)
            .open(path)
            .map_err(io())?;
        if overwrite {
            file.set_len(0).map_err(io())?;
        }
        let Finished {
            rows: done,
            half_from,
        } = finished_rows(&file, path)?;
        if let Some(bytes) = half_from {
            file.set_len(bytes).map_err(io())?;
        }
        if !done.is_empty() {
            say(format!(
                "{} rows are done already; going on behind them",
                done.len()
            ));
        }
        Ok(Self {
            file: Some(file),
            done,
        })
    }

    fn write(&mut self, row: &Map<String, Value>) -> Result<()> {
        let mut line = serde_json::to_vec(row).map_err(|error| CliError::Failed(error.to_string()))?;
        line.push(b'\n');
        match &mut self.file {
            Some(file) => file
                .write_all(&line)
                .map_err(|error| CliError::Failed(format!("cannot write --output: {error}"))),
            None => {
                let mut stdout = std::io::stdout().lock();
                stdout
                    .write_all(&line)
                    .and_then(|()| stdout.flush())
                    .map_err(stdout_error)
            }
        }
    }
}

/// The rows of an earlier run.
struct Finished {
    rows: Vec<Map<String, Value>>,
    /// Bytes before a row that was being written when that run was killed.
    half_from: Option<u64>,
}

/// Reads what is in an output file. What an earlier run cannot have written is somebody else's, or damaged, and refused.
fn finished_rows(file: impl Read, path: &Path) -> Result<Finished> {
    let mut reader = BufReader::new(file);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(CliError::io("read", path))?;
        let is_whole = line.ends_with(b"\n");
        let row: Result<Map<String, Value>, _> = serde_json::from_slice(&line);
        let reason = match row {
            Ok(row) if !row.contains_key("corrected") => "it has no `corrected`".to_string(),
            Ok(row) if is_whole => {
                rows.push(row);
                bytes += read as u64;
                continue;
            }
            // The end of the file, or a row without its end.
            _ if !is_whole && (line.is_empty() || line.starts_with(b"{")) => {
                return Ok(Finished {
                    rows,
                    half_from: (read > 0).then_some(bytes),
                });
            }
            Ok(_) => "it is cut off".to_string(),
            Err(error) => error.to_string(),
        };
        return Err(CliError::Usage(format!(
            "{}:{}: this is no corrected row ({reason}); give another --output, or --overwrite; or delete \
             this row and those behind it, and they are made anew",
            path.display(),
            rows.len() + 1
        )));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ROW: &str = "{\"answer\": \"a\", \"corrected\": \"b\"}\n";

    fn finished(text: &str) -> Result<(usize, Option<u64>), String> {
        let finished = finished_rows(text.as_bytes(), Path::new("out.jsonl"));
        finished
            .map(|finished| (finished.rows.len(), finished.half_from))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn half_a_row_alone_is_cut_off() {
        let two = ROW.repeat(2);
        let end = Some(two.len() as u64);
        assert_eq!(finished(""), Ok((0, None)));
        assert_eq!(finished(&two), Ok((2, None)));
        for half in ["{", "{\"answer\": \"a\", \"corr", ROW.trim_end()] {
            assert_eq!(finished(&format!("{two}{half}")), Ok((2, end)), "{half}");
        }
    }

    #[test]
    fn what_no_run_has_written_is_refused_by_file_and_line() {
        for (behind, reason) in [
            ("question,answer\n", "expected value"),
            ("my notes", "expected value"),
            ("{\"answer\": \"a\",\n", "EOF while parsing"),
            ("{\"answer\": \"a\"}\n", "no `corrected`"),
            ("{\"answer\": \"a\"}", "no `corrected`"),
            ("[1]\n", "invalid type"),
            ("\n", "EOF while parsing"),
        ] {
            let text = match behind.ends_with('\n') {
                true => format!("{ROW}{behind}{ROW}"),
                false => format!("{ROW}{behind}"),
            };
            let error = finished(&text).unwrap_err();
            assert!(
                error.starts_with("out.jsonl:2: ") && error.contains(reason) && error.contains("--overwrite"),
                "{error}"
            );
        }
    }
}
