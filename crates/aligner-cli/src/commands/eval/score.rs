//! `aligner eval score`

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use aligner_eval::report::Difference;
use aligner_eval::stats::Interval;
use aligner_eval::{Outcome, ScoreKind, Scored, Unfinished, facts, outcomes, scores};
use aligner_hub::Files;
use aligner_infer::{Input, Scorer};
use serde_json::json;

use super::{OUTCOMES, SCORES, described};
use crate::args::EvalScoreArgs;
use crate::error::{CliError, Result, stdout_error};
use crate::runs::{model_dir, model_name};
use crate::terminal::progress;

/// Scores each answer and its correction, and prints by how much they differ.
pub fn run(args: &EvalScoreArgs) -> Result<()> {
    let outcomes = outcomes::read(&args.dir.join(OUTCOMES))?;
    let path = args.dir.join(SCORES);
    let kinds = [
        (ScoreKind::Reward, "reward", &args.reward),
        (ScoreKind::Cost, "cost", &args.cost),
    ];
    let mut all = Vec::new();
    for (kind, name, model) in kinds {
        let Some(model) = model else { continue };
        let dir = model_dir(Some(model), Files::Model)?;
        let described = json!({
            "name": model_name(&dir), "model": described::model(&dir)?, "weights": args.place.weights.to_string(),
        });
        let mut rows = Unfinished::open(
            &args.dir.join(format!("scores.{name}.jsonl")),
            &described,
            |row, found| outcomes.get(row).is_some_and(|outcome| is_of(outcome, found)),
        )?;
        score(args, &outcomes, kind, &dir, &mut rows)?;
        all = scores::update(&path, &outcomes, rows.rows())?;
        facts::add(&args.dir, "score", json!({ name: described }))?;
        rows.discard()?;
    }
    print(&all, args.seed)
}

fn is_of(outcome: &Outcome, row: &Scored) -> bool {
    let item = &outcome.item;
    (&row.id, &row.dataset, &row.upstream, &row.aligner)
        == (&item.id, &item.dataset, &item.upstream, &outcome.aligner)
        && row.fingerprint == outcome.fingerprint()
}

/// Scores the pairs behind those that are scored already.
fn score(
    args: &EvalScoreArgs,
    outcomes: &[Outcome],
    kind: ScoreKind,
    dir: &Path,
    rows: &mut Unfinished<Scored>,
) -> Result<()> {
    let scorer = scorer(args, kind, dir)?;
    let bar = progress(Some(outcomes.len() as u64), "scoring");
    bar.set_position(rows.rows().len() as u64);
    // Several Aligners correct the same answers.
    let mut answers: HashMap<[&str; 3], f64> = HashMap::new();
    for (outcome, row) in outcomes.iter().zip(rows.rows()) {
        answers.insert(of_item(outcome), row.original);
    }
    for outcome in &outcomes[rows.rows().len()..] {
        let item = &outcome.item;
        let of = |answer| {
            let chat_history = &item.chat_history;
            let score = scorer.score(Input {
                question: &item.question,
                answer,
                chat_history,
            });
            score.map_err(|error| CliError::Failed(format!("row {} of {}: {error}", item.id, item.upstream)))
        };
        let original = match answers.get(&of_item(outcome)) {
            Some(known) => *known,
            None => of(&item.answer)?,
        };
        answers.insert(of_item(outcome), original);
        rows.push(Scored {
            id: item.id.clone(),
            dataset: item.dataset.clone(),
            upstream: item.upstream.clone(),
            aligner: outcome.aligner.clone(),
            fingerprint: outcome.fingerprint(),
            kind,
            original,
            output: of(&outcome.output)?,
            scorer: model_name(dir),
        })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn of_item(outcome: &Outcome) -> [&str; 3] {
    let item = &outcome.item;
    [&item.dataset, &item.upstream, &item.id]
}

/// A model of the kind that it was named as.
fn scorer(args: &EvalScoreArgs, kind: ScoreKind, dir: &Path) -> Result<Scorer> {
    let scorer = Scorer::builder(dir)
        .device(args.place.device)
        .weights(args.place.weights)
        .build()?;
    let is_cost = scorer.kind() == aligner_model::ScoreKind::Cost;
    if is_cost == (kind == ScoreKind::Cost) {
        return Ok(scorer);
    }
    let (found, flag) = if is_cost {
        ("a cost", "--cost")
    } else {
        ("a reward", "--reward")
    };
    Err(CliError::Usage(format!(
        "{} is {found} model: name it with {flag}",
        dir.display()
    )))
}

fn print(scored: &[Scored], seed: u64) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for found in Difference::of(scored, seed) {
        let name = match found.kind {
            ScoreKind::Reward => "helpfulness",
            ScoreKind::Cost => "harmlessness",
        };
        let Interval { value, low, high } = found.gain();
        writeln!(
            stdout,
            "{} + {} on {}: {name} {value:+.3} ({low:+.3} to {high:+.3}) by {}, {} pairs",
            found.group.upstream, found.group.aligner, found.group.dataset, found.scorer, found.count
        )
        .map_err(stdout_error)?;
    }
    Ok(())
}
