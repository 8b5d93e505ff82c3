//! What drafts are worth on recorded corrections: real passes of a model that write tokens which another Aligner wrote.
//!
//! ```sh
//! cargo bench -p aligner-bench --bench draft -- --model DIR --data ROWS [--rows 24] [--copies 6] [--repeat 1] [--template ID] [--weights q8]
//! ```
//!
//! `--rows` are taken evenly from those of the file that fit the context, `--copies` of those whose correction is the answer.
//! Each is written without and with drafts in turn, `--repeat` times, of which the fastest count. A line for each row and one
//! for all: seconds behind the prompt, their ratio, the ratio with the prompt's time, tokens a pass, drafted and accepted.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use aligner_data::{Encoder, PromptTemplate, ReadOptions, RowReader};
use aligner_infer::replay::Replay;
use aligner_infer::{
    CancelToken, CausalLm, Corrector, DecoderLm, Draft, DraftMemory, Drafting, Generated, Request,
    SamplingParams, generate,
};
use aligner_model::RuntimeWeights;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Options {
    model: PathBuf,
    data: PathBuf,
    rows: usize,
    copies: usize,
    repeat: usize,
    template: String,
    weights: RuntimeWeights,
}

impl Options {
    /// `None` when the bench is not asked to run: `cargo bench` without arguments runs all of them.
    fn parse() -> Result<Option<Self>> {
        let (mut model, mut data) = (None, None);
        let (mut rows, mut copies, mut repeat, mut template) = (24, 6, 1, "correction".to_string());
        let mut weights = RuntimeWeights::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--model" => model = Some(value.into()),
                "--data" => data = Some(value.into()),
                "--rows" => rows = value.parse()?,
                "--copies" => copies = value.parse()?,
                "--repeat" => repeat = value.parse::<usize>()?.max(1),
                "--template" => template = value,
                "--weights" => weights = value.parse()?,
                _ => return Err(format!("{name} is not known").into()),
            }
        }
        let (Some(model), Some(data)) = (model, data) else {
            println!("needs --model DIR and --data ROWS; left out");
            return Ok(None);
        };
        Ok(Some(Self {
            model,
            data,
            rows,
            copies,
            repeat,
            template,
            weights,
        }))
    }
}

/// A row's tokens.
struct Recorded {
    row: usize,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    correction: Vec<u32>,
}

impl Recorded {
    fn is_copy(&self) -> bool {
        self.answer == self.correction
    }
}

fn read(options: &Options, encoder: &Encoder) -> Result<Vec<Recorded>> {
    let tokenizer = encoder.tokenizer();
    let ended = |text: &str| -> Result<Vec<u32>> {
        let mut ids = tokenizer.encode_target(text)?;
        ids.push(tokenizer.eos_id());
        Ok(ids)
    };
    let mut all = Vec::new();
    for (row, record) in RowReader::open(&options.data, ReadOptions::default())?.enumerate() {
        let record = record?;
        let Some(correction) = &record.correction else {
            continue;
        };
        let recorded = Recorded {
            row,
            prompt: encoder.encode_prompt(&record.question, &record.answer, &record.chat_history)?,
            answer: ended(&record.answer)?,
            correction: ended(correction)?,
        };
        if recorded.prompt.len() + recorded.correction.len() <= encoder.max_length() {
            all.push(recorded);
        }
    }
    Ok(all)
}

/// `rows` of all and `copies` of those that are copies, evenly from first to last; with each, whether it is one of the former.
fn chosen(options: &Options, all: Vec<Recorded>) -> Vec<(Recorded, bool)> {
    let evenly = |indices: Vec<usize>, count: usize| -> Vec<usize> {
        let count = count.min(indices.len());
        (0..count).map(|at| indices[at * indices.len() / count]).collect()
    };
    let copies: Vec<usize> = (0..all.len()).filter(|&index| all[index].is_copy()).collect();
    let rows = evenly((0..all.len()).collect(), options.rows);
    let copies = evenly(copies, options.copies);
    all.into_iter()
        .enumerate()
        .map(|(index, recorded)| (recorded, rows.contains(&index), copies.contains(&index)))
        .filter(|(_, is_row, is_copy)| *is_row || *is_copy)
        .map(|(recorded, is_row, _)| (recorded, is_row))
        .collect()
}

fn write(lm: &DecoderLm, recorded: &Recorded, mode: Draft, memory: &Arc<DraftMemory>) -> Result<Generated> {
    let replay = Replay::new(lm, recorded.prompt.len(), &recorded.correction);
    let request = Request {
        prompt: &recorded.prompt,
        sampling: SamplingParams::default(),
        stop_ids: &[],
        max_new_tokens: recorded.correction.len(),
        cancel: CancelToken::default(),
        drafting: Drafting {
            mode,
            answer: &recorded.answer,
            prediction: &[],
            memory: Arc::clone(memory),
        },
    };
    let out = generate(&replay, &request, |_| Ok(ControlFlow::Continue(())))?;
    if out.ids != recorded.correction {
        return Err(format!("row {}: another text was written", recorded.row).into());
    }
    Ok(out)
}

/// Sums and extremes of ratios.
#[derive(Default)]
struct Summary {
    rows: usize,
    ratios: f64,
    worst: f64,
    without: f64,
    with: f64,
}

impl Summary {
    fn add(&mut self, without: f64, with: f64) {
        let ratio = without / with;
        self.worst = if self.rows == 0 {
            ratio
        } else {
            self.worst.min(ratio)
        };
        self.rows += 1;
        self.ratios += ratio;
        self.without += without;
        self.with += with;
    }

    fn show(&self, name: &str) {
        if self.rows == 0 {
            return;
        }
        println!(
            "{name}: {} rows, mean ratio {:.2}, worst {:.2}; {:.2} s without drafts, {:.2} s with: {:.2}",
            self.rows,
            self.ratios / self.rows as f64,
            self.worst,
            self.without,
            self.with,
            self.without / self.with
        );
    }
}

fn main() -> Result<()> {
    let Some(options) = Options::parse()? else {
        return Ok(());
    };
    aligner_bench::keep_freed_memory();
    let corrector = Corrector::builder(&options.model)
        .template(PromptTemplate::builtin(&options.template)?)
        .weights(options.weights)
        .allow_mismatch()
        .build()?;
    let lm = corrector.model();
    let encoder = Encoder::new(
        corrector.tokenizer().clone(),
        corrector.template().clone(),
        lm.max_positions(),
    );
    let memory = Arc::default();
    let (mut all, mut copies, mut whole) = (Summary::default(), Summary::default(), Summary::default());
    println!("   row prompt tokens  without     with ratio  whole tokens/pass proposed accepted");
    for (recorded, is_row) in chosen(&options, read(&options, &encoder)?) {
        let (mut without, mut with) = (Fastest::default(), Fastest::default());
        for _ in 0..options.repeat {
            without.keep(write(lm, &recorded, Draft::Off, &memory)?);
            with.keep(write(lm, &recorded, Draft::Auto, &memory)?);
        }
        let (Some(without), Some(with)) = (without.0, with.0) else {
            continue;
        };
        let tokens = recorded.correction.len();
        let seconds = [&without, &with].map(|out| out.timings.decode_seconds.max(1e-6));
        let prompt = [&without, &with].map(|out| out.timings.prefill_seconds);
        if is_row {
            all.add(seconds[0], seconds[1]);
            whole.add(seconds[0] + prompt[0], seconds[1] + prompt[1]);
        }
        if recorded.is_copy() {
            copies.add(seconds[0], seconds[1]);
        }
        println!(
            "{:6} {:6} {tokens:6} {:8.3} {:8.3} {:5.2} {:6.2} {:11.2} {:8} {:8}{}",
            recorded.row,
            recorded.prompt.len(),
            seconds[0],
            seconds[1],
            seconds[0] / seconds[1],
            (seconds[0] + prompt[0]) / (seconds[1] + prompt[1]),
            tokens as f64 / (tokens - with.draft_accepted).max(1) as f64,
            with.draft_proposed,
            with.draft_accepted,
            if recorded.is_copy() { "  copy" } else { "" }
        );
    }
    all.show("all");
    copies.show("copies");
    whole.show("all, with the prompt");
    Ok(())
}

/// The run that took least.
#[derive(Default)]
struct Fastest(Option<Generated>);

impl Fastest {
    fn keep(&mut self, out: Generated) {
        let seconds = |out: &Generated| out.timings.prefill_seconds + out.timings.decode_seconds;
        if self.0.as_ref().is_none_or(|best| seconds(&out) < seconds(best)) {
            self.0 = Some(out);
        }
    }
}
