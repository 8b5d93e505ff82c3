//! `aligner eval answer`

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use aligner_eval::{Item, input};
use aligner_hub::Files;
use aligner_infer::{Answerer, SamplingParams};

use crate::args::EvalAnswerArgs;
use crate::error::{CliError, Result};
use crate::runs::{model_dir, model_name};
use crate::terminal::{progress, say};

/// Has a model answer the questions of a set, as the upstream of an evaluation.
pub fn run(args: &EvalAnswerArgs) -> Result<()> {
    if args.out.exists() {
        return Err(CliError::Usage(format!(
            "{} is there already: name another --out, or delete it",
            args.out.display()
        )));
    }
    let dir = model_dir(Some(&args.model), Files::Model)?;
    let name = args.name.clone().unwrap_or_else(|| model_name(&dir));
    let mut items = input::questions(&args.set.input, &args.set.options())?;
    items.truncate(args.limit.unwrap_or(usize::MAX));
    let part = part_of(&args.out);
    let (mut file, done) = begin(&part, &items, &name)?;
    if done > 0 {
        say(format!(
            "{done} questions are answered already; going on behind them"
        ));
    }
    let upstream = Answerer::open(&dir, args.place.device, args.place.weights)?;
    let sampling = SamplingParams {
        temperature: args.temperature,
        seed: args.seed,
        ..SamplingParams::default()
    };
    let bar = progress(Some(items.len() as u64), "answering");
    bar.set_position(done as u64);
    for item in items.iter_mut().skip(done) {
        let answer = upstream.answer(&item.question, &item.chat_history, args.max_new_tokens, &sampling);
        let answer = answer.map_err(|error| CliError::Failed(format!("row {}: {error}", item.id)))?;
        item.answer = answer.text.trim().to_string();
        item.upstream.clone_from(&name);
        let line = serde_json::to_string(item).map_err(|error| CliError::Failed(error.to_string()))?;
        writeln!(file, "{line}").map_err(CliError::io("write", &part))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    std::fs::rename(&part, &args.out).map_err(CliError::io("write", &args.out))
}

/// Beside the file, until all questions are answered.
fn part_of(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    out.with_file_name(name)
}

/// The file behind the whole rows that are in it, and how many they are.
fn begin(part: &Path, items: &[Item], upstream: &str) -> Result<(File, usize)> {
    let io = || CliError::io("write", part);
    let file = OpenOptions::new()
        .read(true)
        .create(true)
        .append(true)
        .open(part)
        .map_err(io())?;
    let (mut done, mut bytes, mut line) = (0, 0, Vec::new());
    let mut reader = BufReader::new(&file);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(io())?;
        let item: Item = match serde_json::from_slice(&line) {
            Ok(item) if line.ends_with(b"\n") => item,
            // The end, or a row that was being written when the last run was killed.
            _ => break,
        };
        let is_same = items
            .get(done)
            .is_some_and(|asked| (&asked.id, &asked.question) == (&item.id, &item.question));
        if !is_same || item.upstream != upstream {
            return Err(CliError::Usage(format!(
                "{}: row {} is of another run; delete the file, or name another --out",
                part.display(),
                done + 1
            )));
        }
        (done, bytes) = (done + 1, bytes + read as u64);
    }
    file.set_len(bytes).map_err(io())?;
    Ok((file, done))
}
