//! `aligner eval answer`

use aligner_eval::{Item, Unfinished, input};
use aligner_hub::Files;
use aligner_infer::{Answerer, FinishReason, SamplingParams, part_seed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::described;
use crate::args::EvalAnswerArgs;
use crate::error::{CliError, Result};
use crate::runs::{model_dir, model_name};
use crate::terminal::{progress, say};

/// A question with its answer.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    #[serde(flatten)]
    item: Item,
    /// Whether the answer ended at the limit of its length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_cut: bool,
}

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
    for item in &mut items {
        item.upstream.clone_from(&name);
    }
    let is_asked = |row: usize, found: &Answered| {
        let answer = found.item.answer.clone();
        items.get(row).is_some_and(|asked| {
            found.item
                == Item {
                    answer,
                    ..asked.clone()
                }
        })
    };
    let settings = json!({"model": described::model(&dir)?, "decoding": decoding(args)});
    let mut rows = Unfinished::open(&args.out, &settings, is_asked)?;
    let done = rows.rows().len();
    if done > 0 {
        say(format!(
            "{done} questions are answered already; going on behind them"
        ));
    }
    answer(args, &dir, &items[done..], &mut rows)?;
    let cut = rows.rows().iter().filter(|row| row.is_cut).count();
    if cut > 0 {
        let (all, limit) = (items.len(), args.max_new_tokens);
        say(format!(
            "{cut} of {all} answers ended at the limit of {limit} tokens (--max-new-tokens)"
        ));
    }
    Ok(rows.finish(&args.out)?)
}

fn answer(
    args: &EvalAnswerArgs,
    dir: &std::path::Path,
    items: &[Item],
    rows: &mut Unfinished<Answered>,
) -> Result<()> {
    let upstream = Answerer::open(dir, args.place.device, args.place.weights)?;
    let done = rows.rows().len();
    let bar = progress(Some((done + items.len()) as u64), "answering");
    bar.set_position(done as u64);
    for (index, item) in (done as u64..).zip(items) {
        let sampling = SamplingParams {
            temperature: args.temperature,
            seed: part_seed(args.seed, index),
            ..SamplingParams::default()
        };
        let answer = upstream.answer(&item.question, &item.chat_history, args.max_new_tokens, &sampling);
        let answer = answer.map_err(|error| CliError::Failed(format!("row {}: {error}", item.id)))?;
        rows.push(Answered {
            is_cut: answer.finish_reason == FinishReason::Length,
            item: Item {
                answer: answer.text.trim().to_string(),
                ..item.clone()
            },
        })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// What answers depend on beside the model.
fn decoding(args: &EvalAnswerArgs) -> Value {
    json!({
        "max_new_tokens": args.max_new_tokens, "temperature": args.temperature, "seed": args.seed,
        "weights": args.place.weights.to_string(), "device": args.place.device.to_string(),
    })
}
