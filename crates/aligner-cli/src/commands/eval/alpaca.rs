//! `aligner eval alpaca`

use std::io::Write;

use aligner_eval::alpaca::{self, WinRates};

use crate::args::EvalAlpacaArgs;
use crate::error::{CliError, Result, stdout_error};

/// Prints the win rates of one model.
pub fn run(args: &EvalAlpacaArgs) -> Result<()> {
    let annotated = alpaca::read(
        &args.annotations,
        args.instructions.as_deref(),
        args.gamed.as_deref(),
    )?;
    let rates = annotated.win_rates()?;
    let text = if args.json {
        serde_json::to_string_pretty(&rates).map_err(|error| CliError::Failed(error.to_string()))?
    } else {
        text(&rates)
    };
    writeln!(std::io::stdout(), "{text}").map_err(stdout_error)
}

fn text(rates: &WinRates) -> String {
    let with = |rate: f64, error: Option<f64>| {
        error.map_or_else(
            || format!("{rate:.2} %"),
            |error| format!("{rate:.2} % ± {error:.2}"),
        )
    };
    let controlled = rates.lc_win_rate.map_or_else(
        || "needs --instructions and --gamed".into(),
        |rate| with(rate, rates.lc_standard_error),
    );
    format!(
        "win rate                    {}\nlength-controlled win rate  {controlled}\n\
         {} won, {} lost, {} drawn, {} without a preference; {} characters on average",
        with(rates.win_rate, rates.standard_error),
        rates.n_wins,
        rates.n_wins_base,
        rates.n_draws,
        rates.n_dropped,
        rates.avg_length
    )
}
