//! `aligner inspect tokens`

use std::io::Write;

use aligner_infer::inspect::{InspectedToken, Inspection};
use aligner_infer::{CorrectOptions, Input};
use aligner_report::tokens::{Cell, Heat};

use super::super::open;
use crate::args::InspectTokensArgs;
use crate::error::{CliError, Result, stdout_error};
use crate::heat;
use crate::terminal::{say, stdout_is_coloured};

/// Alternatives that are read beside a token; more would fill a page with what nobody reads.
const MOST_ALTERNATIVES: usize = 20;

/// Prints a correction as a heat map, as a table where there are no colours, or as a JSON object; and draws a page.
pub fn run(args: &InspectTokensArgs) -> Result<()> {
    if args.alternatives > MOST_ALTERNATIVES {
        return Err(CliError::Usage(format!(
            "--alternatives {} is more than can be shown beside a token: ask for {MOST_ALTERNATIVES} at most",
            args.alternatives
        )));
    }
    let corrector = open(&args.model)?;
    let input = Input::new(&args.question, &args.answer);
    let options = CorrectOptions {
        max_new_tokens: args.max_new_tokens,
        ..CorrectOptions::default()
    };
    let found = corrector.inspect(input, args.correction.as_deref(), &options, args.alternatives)?;
    let text = if args.json {
        let json = serde_json::to_string(&found).map_err(|error| CliError::Failed(error.to_string()))?;
        json + "\n"
    } else {
        heat::render(&cells(&found), stdout_is_coloured())
    };
    if let Some(path) = &args.html {
        let dir = corrector.tokenizer().dir();
        let page = Heat {
            question: &args.question,
            answer: &args.answer,
            model: &args.model.model.as_deref().unwrap_or(dir).display().to_string(),
            cells: cells(&found),
        };
        aligner_report::write_page(path, &page.page())?;
        say(path.display());
    }
    std::io::stdout().write_all(text.as_bytes()).map_err(stdout_error)
}

fn cells(found: &Inspection) -> Vec<Cell<'_>> {
    found.tokens.iter().map(cell).collect()
}

fn cell(token: &InspectedToken) -> Cell<'_> {
    let alternatives = token.alternatives.iter();
    Cell {
        text: &token.text,
        tokens: token.ids.len(),
        not_first: token.not_first,
        logprob: token.logprob,
        kept: token.kept,
        is_end: token.is_end,
        alternatives: alternatives
            .map(|other| (other.text.as_str(), other.logprob))
            .collect(),
    }
}
