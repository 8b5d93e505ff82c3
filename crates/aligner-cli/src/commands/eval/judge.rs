//! `aligner eval judge`

use std::io::Write;

use aligner_eval::judge::{self, JudgeConfig, Row};
use aligner_eval::{facts, outcomes};
use serde_json::json;

use super::{JUDGEMENTS, OUTCOMES};
use crate::args::EvalJudgeArgs;
use crate::error::{Result, stdout_error};
use crate::terminal::{progress, say};

/// Replies of judges, so that nothing is asked twice.
const CACHE: &str = "judge_cache.jsonl";

/// Asks a judge about each pair, or tells what that would take.
pub fn run(args: &EvalJudgeArgs) -> Result<()> {
    let config = args.config()?;
    let outcomes = outcomes::read(&args.dir.join(OUTCOMES))?;
    let cache = args.dir.join(CACHE);
    let estimate = judge::estimate(&outcomes, &config, &cache)?;
    if args.estimate {
        return writeln!(std::io::stdout(), "{estimate}").map_err(stdout_error);
    }
    say(estimate);
    let bar = progress(Some(estimate.calls), "judging");
    let judgements = judge::judge(&outcomes, &config, &cache, |state| bar.set_position(state.done));
    bar.finish_and_clear();
    let judgements = judgements?;
    let all = judge::update(&args.dir.join(JUDGEMENTS), &outcomes, &judgements)?;
    facts::add(&args.dir, "judge", described(&config))?;
    print(&judge::table(&all, args.seed)?)
}

/// What verdicts depend on, without the key and the address.
fn described(config: &JudgeConfig) -> serde_json::Value {
    let settings = json!({
        "temperature": config.temperature, "max_tokens": config.max_tokens, "has_system_role": config.has_system_role,
        "extra": config.extra,
    });
    let asked = config
        .dimensions
        .iter()
        .map(|dimension| (dimension.to_string(), settings.clone()));
    let asked: serde_json::Map<_, _> = asked.collect();
    json!({ &config.model: asked })
}

fn print(rows: &[Row]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for row in rows {
        let Row { tally, .. } = row;
        let rate = row.win_rate.map_or_else(String::new, |rate| {
            format!(
                "win rate {:+.1} % ({:+.1} to {:+.1}), p {:.2e}, ",
                100.0 * rate.value,
                100.0 * rate.low,
                100.0 * rate.high,
                row.sign_test_p
            )
        });
        let dimension = row.dimension;
        writeln!(
            stdout,
            "{} + {} on {}, {dimension}: {rate}{} won, {} tied, {} lost, {} unread, {} contradictions",
            row.upstream,
            row.aligner,
            row.dataset,
            tally.wins,
            tally.ties,
            tally.losses,
            tally.unread,
            row.contradictions
        )
        .map_err(stdout_error)?;
    }
    Ok(())
}
