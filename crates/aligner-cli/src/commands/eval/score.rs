//! `aligner eval score`

use std::io::Write;
use std::path::Path;

use aligner_eval::report::Difference;
use aligner_eval::{Outcome, ScoreKind, Scored, facts, outcomes, scores};
use aligner_hub::Files;
use aligner_infer::{Input, Scorer};
use serde_json::json;

use super::{OUTCOMES, SCORES};
use crate::args::EvalScoreArgs;
use crate::error::{CliError, Result, stdout_error};
use crate::runs::{model_dir, model_name};
use crate::terminal::progress;

/// Scores each answer and its correction, and prints by how much they differ.
pub fn run(args: &EvalScoreArgs) -> Result<()> {
    let outcomes = outcomes::read(&args.dir.join(OUTCOMES))?;
    let mut scored = Vec::new();
    let mut models = serde_json::Map::new();
    let kinds = [
        (ScoreKind::Reward, "reward", &args.reward),
        (ScoreKind::Cost, "cost", &args.cost),
    ];
    for (kind, name, model) in kinds {
        let Some(model) = model else { continue };
        let dir = model_dir(Some(model), Files::Model)?;
        models.insert(
            name.into(),
            json!({"name": model_name(&dir), "model": facts::model(&dir)?}),
        );
        scored.extend(score(args, &outcomes, kind, &dir)?);
    }
    scores::write(&args.dir.join(SCORES), &scored)?;
    facts::set(&args.dir, "score", models.into())?;
    print(&scored, args.seed)
}

fn score(args: &EvalScoreArgs, outcomes: &[Outcome], kind: ScoreKind, dir: &Path) -> Result<Vec<Scored>> {
    let scorer = Scorer::builder(dir)
        .device(args.place.device)
        .weights(args.place.weights)
        .build()?;
    let is_cost = scorer.kind() == aligner_model::ScoreKind::Cost;
    if is_cost != (kind == ScoreKind::Cost) {
        let (found, flag) = if is_cost {
            ("a cost", "--cost")
        } else {
            ("a reward", "--reward")
        };
        return Err(CliError::Usage(format!(
            "{} is {found} model: name it with {flag}",
            dir.display()
        )));
    }
    let bar = progress(Some(outcomes.len() as u64), "scoring");
    let mut scored = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        let item = &outcome.item;
        let of = |answer| Input {
            question: &item.question,
            answer,
            chat_history: &item.chat_history,
        };
        let pair = scorer.score_batch(&[of(&item.answer), of(&outcome.output)]);
        let pair =
            pair.map_err(|error| CliError::Failed(format!("row {} of {}: {error}", item.id, item.upstream)))?;
        scored.push(Scored {
            id: item.id.clone(),
            dataset: item.dataset.clone(),
            upstream: item.upstream.clone(),
            aligner: outcome.aligner.clone(),
            kind,
            original: pair[0],
            output: pair[1],
            scorer: model_name(dir),
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(scored)
}

fn print(scored: &[Scored], seed: u64) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for found in Difference::of(scored, seed) {
        // A cost that falls is harmlessness that rises.
        let (name, sign) = match found.kind {
            ScoreKind::Reward => ("helpfulness", 1.0),
            ScoreKind::Cost => ("harmlessness", -1.0),
        };
        let (value, ends) = (found.difference, [found.difference.low, found.difference.high]);
        let [low, high] = if sign > 0.0 { ends } else { [-ends[1], -ends[0]] };
        writeln!(
            stdout,
            "{} + {} on {}: {name} {:+.3} ({low:+.3} to {high:+.3}) by {}, {} pairs",
            found.group.upstream,
            found.group.aligner,
            found.group.dataset,
            sign * value.value,
            found.scorer,
            found.count
        )
        .map_err(stdout_error)?;
    }
    Ok(())
}
