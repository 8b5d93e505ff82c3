//! `aligner eval run` and `eval import`

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use aligner_data::Turn;
use aligner_eval::given::{self, GivenOptions};
use aligner_eval::metrics::MetricOptions;
use aligner_eval::outcomes::{self, OutcomeWriter};
use aligner_eval::{Item, Outcome, facts, input, summary};
use aligner_hub::Files;
use aligner_infer::{Batcher, CorrectOptions, Correction, CorrectionStream, Corrector, FinishReason, Input};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{METRICS, OUTCOMES, described, make_dir};
use crate::args::{EvalImportArgs, EvalRunArgs, template};
use crate::commands::builder;
use crate::error::{CliError, Result};
use crate::runs::{model_dir, model_name};
use crate::terminal::{progress, say};

/// How many answers are read ahead for each that is corrected, so that a long one does not hold up those behind it.
const AHEAD: usize = 3;

/// Corrects every item with every Aligner.
pub fn run(args: &EvalRunArgs) -> Result<()> {
    let items = items(args)?;
    let dirs = aligner_dirs(args)?;
    let names = names(args, &dirs)?;
    make_dir(&args.out)?;
    let path = args.out.join(OUTCOMES);
    let mut writer = OutcomeWriter::open(&path, &items, &names)?;
    let described = corrections(args, &items, &names, &dirs)?;
    if writer.done() > 0 {
        check_settings(&args.out, &described)?;
        let (done, planned) = (writer.done(), writer.planned());
        say(format!(
            "{done} of {planned} rows are done already; going on behind them"
        ));
    }
    facts::set(&args.out, "run", described)?;
    let bar = progress(Some(writer.planned() as u64), "correcting");
    bar.set_position(writer.done() as u64);
    while let Some((_, aligner)) = writer.next_planned() {
        let at = names.iter().position(|name| name == aligner).unwrap_or(0);
        let corrector = builder(&args.aligner(Some(dirs[at].clone())))?.build()?;
        Pass::new(&corrector, args).run(aligner, &mut writer, &bar)?;
    }
    bar.finish_and_clear();
    drop(writer);
    finish(&args.out)
}

/// Takes corrections that were made elsewhere.
pub fn import(args: &EvalImportArgs) -> Result<()> {
    let options = GivenOptions {
        dataset: args.dataset.clone(),
        upstream: args.upstream.clone(),
        aligner: args.name.clone(),
        rows: aligner_data::ReadOptions {
            columns: args.columns.clone(),
            ..aligner_data::ReadOptions::default()
        },
    };
    let given = given::read(&args.input, &options)?;
    make_dir(&args.out)?;
    let items: Vec<Item> = given.iter().map(|outcome| outcome.item.clone()).collect();
    let names = [args.name.clone()];
    let path = args.out.join(OUTCOMES);
    let mut writer = OutcomeWriter::open(&path, &items, &names)?;
    let done = writer.done();
    if done > 0 && outcomes::read(&path)? != given[..done] {
        return Err(CliError::Usage(format!(
            "{} has other corrections of these answers: name another --out",
            path.display()
        )));
    }
    for outcome in &given[done..] {
        writer.write(outcome)?;
    }
    drop(writer);
    let known = json!({"input": facts::file(&args.input)?, "rows": given.len(), "aligner": args.name});
    facts::set(&args.out, "import", known)?;
    finish(&args.out)
}

/// Makes what is made of rows that are all there.
fn finish(dir: &Path) -> Result<()> {
    let all = outcomes::read(&dir.join(OUTCOMES))?;
    outcomes::write_alpaca(dir, &all)?;
    // Figures of these outcomes that `eval metrics` took more trouble with are kept.
    match summary::measured(&dir.join(METRICS), &all)? {
        Some(metrics) => super::metrics::print(&metrics),
        None => {
            let options = MetricOptions::default();
            let metrics = super::metrics::measure(&all, dir, &options, None)?;
            super::metrics::print(&metrics)
        }
    }
}

fn items(args: &EvalRunArgs) -> Result<Vec<Item>> {
    let mut items = input::read(&args.set.input, &args.input())?;
    if let Some(limit) = args.limit {
        let mut counts = std::collections::HashMap::new();
        items.retain(|item| {
            let count = counts.entry(item.upstream.clone()).or_insert(0);
            *count += 1;
            *count <= limit
        });
    }
    Ok(items)
}

fn aligner_dirs(args: &EvalRunArgs) -> Result<Vec<PathBuf>> {
    if args.model.is_empty() {
        return Ok(vec![model_dir(None, Files::Model)?]);
    }
    let dir = |named: &PathBuf| model_dir(Some(named), Files::Model);
    args.model.iter().map(dir).collect()
}

fn names(args: &EvalRunArgs, dirs: &[PathBuf]) -> Result<Vec<String>> {
    if args.name.len() > dirs.len() {
        return Err(CliError::Usage(format!(
            "{} names for {} models: give a --name for each --model, or fewer",
            args.name.len(),
            dirs.len()
        )));
    }
    let own = dirs.iter().skip(args.name.len()).map(|dir| model_name(dir));
    let names: Vec<String> = args.name.iter().cloned().chain(own).collect();
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            return Err(CliError::Usage(format!(
                "two Aligners are called {name}: give each its --name"
            )));
        }
    }
    Ok(names)
}

/// What the corrections depend on.
fn corrections(args: &EvalRunArgs, items: &[Item], names: &[String], dirs: &[PathBuf]) -> Result<Value> {
    let mut inputs = vec![facts::file(&args.set.input)?];
    for path in &args.answers {
        inputs.push(facts::file(path)?);
    }
    let typed = args.template.as_deref().map(template).transpose()?;
    let mut aligners = Vec::new();
    for (name, dir) in names.iter().zip(dirs) {
        let template = match &typed {
            Some(typed) => Some(typed.fingerprint()),
            None => aligner_data::AlignerManifest::read(dir)?.map(|manifest| manifest.template_fingerprint),
        };
        aligners.push(json!({"name": name, "model": described::model(dir)?, "template": template}));
    }
    Ok(json!({
        "inputs": inputs, "items": items.len(), "aligners": aligners,
        "weights": args.place.weights.to_string(), "max_new_tokens": args.max_new_tokens, "decoding": "greedy",
        "long": format!("{:?}", args.long).to_lowercase(),
        "second_pass": args.second_pass, "references": args.references,
        "created_by": concat!("aligner ", env!("CARGO_PKG_VERSION")),
    }))
}

/// Rows that are there must have been made as those that follow, or the file would mix two evaluations. Further Aligners may
/// come behind the first ones.
fn check_settings(dir: &Path, now: &Value) -> Result<()> {
    let known = facts::read(dir)?;
    let Some(before) = known.get("run") else {
        return Ok(());
    };
    let aligners = |facts: &Value| facts["aligners"].as_array().cloned().unwrap_or_default();
    let differs = [
        "inputs",
        "weights",
        "max_new_tokens",
        "long",
        "second_pass",
        "references",
    ]
    .into_iter()
    .find(|key| before[key] != now[key])
    .or_else(|| (!aligners(now).starts_with(&aligners(before))).then_some("aligners"));
    match differs {
        None => Ok(()),
        Some(key) => Err(CliError::Usage(format!(
            "the rows in {} were made with other {key} (eval.json has them): ask for the same, or name another --out",
            dir.display()
        ))),
    }
}

/// One Aligner over all items that it has not corrected yet.
struct Pass<'c, 'a> {
    corrector: &'c Corrector,
    batcher: Batcher,
    options: CorrectOptions,
    ahead: usize,
    second_pass: bool,
    references: bool,
    /// Being corrected.
    first: VecDeque<(&'a Item, CorrectionStream)>,
    /// Corrected, and perhaps being corrected again.
    second: VecDeque<(&'a Item, Correction, Option<CorrectionStream>)>,
}

impl<'c, 'a> Pass<'c, 'a> {
    fn new(corrector: &'c Corrector, args: &EvalRunArgs) -> Self {
        Self {
            corrector,
            batcher: corrector.batcher(args.batch()),
            options: CorrectOptions {
                max_new_tokens: args.max_new_tokens,
                long_answers: args.long,
                ..CorrectOptions::default()
            },
            ahead: args.parallel.max(1).saturating_mul(AHEAD),
            second_pass: args.second_pass,
            references: args.references,
            first: VecDeque::new(),
            second: VecDeque::new(),
        }
    }

    /// Writes rows in their order, however corrections end.
    fn run(mut self, aligner: &str, writer: &mut OutcomeWriter<'a>, bar: &ProgressBar) -> Result<()> {
        let mut pending = writer.pending().take_while(|(_, name)| *name == aligner);
        loop {
            while self.first.len() < self.ahead
                && let Some((item, _)) = pending.next()
            {
                let stream = self.batcher.stream(input_of(item, &item.answer), &self.options);
                self.first.push_back((item, stream));
            }
            while self.second.len() < self.ahead
                && let Some((item, stream)) = self.first.pop_front()
            {
                self.corrected(item, stream)?;
            }
            let Some((item, correction, again)) = self.second.pop_front() else {
                return Ok(());
            };
            let again = again.map(|stream| wait(item, stream)).transpose()?;
            let outcome = self.outcome(item, aligner, correction, again)?;
            writer.write(&outcome)?;
            bar.inc(1);
        }
    }

    fn corrected(&mut self, item: &'a Item, stream: CorrectionStream) -> Result<()> {
        let correction = wait(item, stream)?;
        let again = self.second_pass.then(|| {
            self.batcher
                .stream(input_of(item, &correction.text), &self.options)
        });
        self.second.push_back((item, correction, again));
        Ok(())
    }

    fn outcome(
        &self,
        item: &Item,
        aligner: &str,
        correction: Correction,
        again: Option<Correction>,
    ) -> Result<Outcome> {
        Ok(Outcome {
            item: item.clone(),
            generator: format!("{}+{aligner}", item.upstream),
            aligner: aligner.to_string(),
            is_cut: correction.finish_reason == FinishReason::Length,
            output: correction.text,
            second_output: again.map(|again| again.text),
            reference_nll: self.reference_nll(item)?,
        })
    }

    /// Mean negative log-likelihood of a token of the right references.
    fn reference_nll(&self, item: &Item) -> Result<Option<f64>> {
        if !self.references || item.references.correct.is_empty() {
            return Ok(None);
        }
        let (mut nll, mut tokens) = (0.0, 0);
        for reference in &item.references.correct {
            let score = self.corrector.score(input_of(item, &item.answer), reference);
            let score = score.map_err(|error| CliError::Failed(format!("row {}: {error}", item.id)))?;
            nll -= score.logprob;
            tokens += score.tokens;
        }
        Ok((tokens > 0).then(|| nll / tokens as f64))
    }
}

fn input_of<'a>(item: &'a Item, answer: &'a str) -> Input<'a> {
    let chat_history: &[Turn] = &item.chat_history;
    Input {
        question: &item.question,
        answer,
        chat_history,
    }
}

fn wait(item: &Item, stream: CorrectionStream) -> Result<Correction> {
    stream
        .wait()
        .map_err(|error| CliError::Failed(format!("row {} of {}: {error}", item.id, item.upstream)))
}
