//! What `aligner plan` says.

use aligner_model::ModelConfig;
use aligner_train::{MemoryChoices, MemoryPlan, MemorySize, PeakMoment, RunSize, TimePlan};
use serde_json::{Value, json};

use super::time::Time;

/// What is said.
pub struct Answer {
    choices: MemoryChoices,
    plan: MemoryPlan,
    fit: Option<Fit>,
    /// What a step takes.
    pub time: Time,
    /// What there is to do, where rows were given.
    pub run_size: Option<RunSize>,
}

/// What fits into the memory there is.
struct Fit {
    memory_bytes: u64,
    largest_micro_batch: Option<usize>,
    largest_length: Option<usize>,
    /// Where the run itself does not.
    remedies: Vec<(MemoryChoices, MemoryPlan)>,
    /// Where there are none.
    shorter: Option<MemoryChoices>,
}

impl Answer {
    /// The answer on memory.
    pub fn new(config: &ModelConfig, choices: MemoryChoices, memory: Option<MemorySize>) -> Self {
        let plan = MemoryPlan::of(config, &choices);
        let fit = memory.map(|MemorySize(memory_bytes)| {
            let remedies = match plan.total_bytes <= memory_bytes {
                true => Vec::new(),
                false => MemoryPlan::remedies(config, &choices, memory_bytes),
            };
            let with_plan = |choices| {
                let plan = MemoryPlan::of(config, &choices);
                (choices, plan)
            };
            Fit {
                memory_bytes,
                largest_micro_batch: MemoryPlan::largest_micro_batch(config, &choices, memory_bytes),
                largest_length: MemoryPlan::largest_length(config, &choices, memory_bytes),
                shorter: match remedies.is_empty() {
                    true => MemoryPlan::with_shorter_rows(config, &choices, memory_bytes),
                    false => None,
                },
                remedies: remedies.into_iter().map(with_plan).collect(),
            }
        });
        Self {
            choices,
            plan,
            fit,
            time: Time::NotAsked,
            run_size: None,
        }
    }

    /// As one object.
    pub fn json(&self) -> Value {
        let fit = self.fit.as_ref().map(|fit| {
            let remedies = fit.remedies.iter().map(
                |(choices, plan)| json!({ "flags": flags(&self.choices, choices), "total_bytes": plan.total_bytes }),
            );
            json!({
                "memory_bytes": fit.memory_bytes,
                "fits": self.plan.total_bytes <= fit.memory_bytes,
                "largest_micro_batch": fit.largest_micro_batch,
                "largest_max_length": fit.largest_length,
                "remedies": remedies.collect::<Vec<_>>(),
                "shorter_rows": fit.shorter.as_ref().map(|shorter| {
                    json!({ "flags": flags(&self.choices, shorter), "max_length": shorter.max_length })
                }),
            })
        });
        json!({
            "micro_batch": self.choices.micro_batch,
            "max_length": self.choices.max_length,
            "accumulate": self.choices.accumulate,
            "lora_rank": self.choices.lora.as_ref().map(|lora| lora.rank),
            "checkpointing": self.choices.checkpointing,
            "base_weights": self.choices.base_weights,
            "precision": self.choices.precision,
            "device": self.choices.device.to_string(),
            "peak": self.plan,
            "fit": fit,
            "time": self.time_json(),
        })
    }

    fn time_json(&self) -> Value {
        let plan = match &self.time {
            Time::NotAsked => return Value::Null,
            Time::Unknown(reason) => return json!({ "not_measured": reason }),
            Time::Measured(plan) => plan,
        };
        let run = self.run_size.as_ref().map(|run| {
            let seconds = plan.run_seconds(run);
            json!({
                "rows": run.rows,
                "steps": run.steps,
                "tokens": run.tokens,
                "target_tokens": run.target_tokens,
                "seconds": seconds,
                "step_seconds": seconds / run.steps.max(1) as f64,
                "tokens_per_second": run.tokens as f64 / seconds,
            })
        });
        let longest = plan.longest_step_seconds(&self.choices);
        json!({
            "longest_step_seconds": longest,
            "tokens_per_second": self.longest_step_tokens() / longest,
            "probe_seconds": plan.probe_seconds,
            "run": run,
        })
    }

    /// Tokens of rows that are all as long as allowed.
    fn longest_step_tokens(&self) -> f64 {
        self.choices.rows_per_step() as f64 * self.choices.max_length as f64
    }

    /// For people.
    pub fn table(&self) -> String {
        let plan = &self.plan;
        let moment = match plan.moment {
            PeakMoment::ForwardEnd => "the end of the forward pass",
            PeakMoment::BackwardEnd => "the end of the backward pass",
        };
        let parts = [
            ("weights", plan.weights_bytes),
            ("optimizer moments", plan.moments_bytes),
            ("gradients", plan.gradients_bytes),
            ("activations", plan.activations_bytes),
            ("logits", plan.logits_bytes),
            ("scratch", plan.scratch_bytes),
            ("held by the allocator", plan.held_bytes),
            ("program and tokenizer", plan.fixed_bytes),
            ("total", plan.total_bytes),
        ];
        let mut lines = vec![format!(
            "peak memory of {} × {} tokens at {moment}",
            self.choices.micro_batch, self.choices.max_length
        )];
        lines.extend(parts.map(|(part, bytes)| format!("  {part:<22} {:>11}", size(bytes))));
        if plan.is_lower_bound {
            lines.push("  at least: layers of this model keep more than is counted here".into());
        }
        if let Some(fit) = &self.fit {
            lines.extend(self.fit_lines(fit));
        }
        match &self.time {
            Time::NotAsked => {}
            Time::Unknown(reason) => lines.push(reason.clone()),
            Time::Measured(plan) => lines.extend(self.time_lines(plan)),
        }
        lines.join("\n")
    }

    fn time_lines(&self, plan: &TimePlan) -> Vec<String> {
        let choices = &self.choices;
        let longest = plan.longest_step_seconds(choices);
        let mut lines = vec![format!(
            "time on {}, told from {} of the layers in {:.0} s: {:.2} s for a step of {} × {} × {} tokens that are all \
             targets, {:.0} tokens/s",
            choices.device,
            plan.probed_layers,
            plan.probe_seconds,
            longest,
            choices.accumulate,
            choices.micro_batch,
            choices.max_length,
            self.longest_step_tokens() / longest
        )];
        if let Some(run) = &self.run_size {
            let seconds = plan.run_seconds(run);
            lines.push(format!(
                "the run: {} rows, {} steps, {} tokens, {:.0} % of them targets: {} ({:.2} s a step, {:.0} tokens/s), \
                 without validations",
                run.rows,
                run.steps,
                run.tokens,
                100.0 * run.target_tokens as f64 / run.tokens.max(1) as f64,
                duration(seconds),
                seconds / run.steps.max(1) as f64,
                run.tokens as f64 / seconds
            ));
        }
        lines
    }

    fn fit_lines(&self, fit: &Fit) -> Vec<String> {
        let memory = size(fit.memory_bytes);
        let choices = &self.choices;
        let or_none = |number: Option<usize>| number.map_or("none".into(), |number| number.to_string());
        let mut lines = vec![
            format!(
                "largest --micro-batch in {memory} at --max-length {}: {}",
                choices.max_length,
                or_none(fit.largest_micro_batch)
            ),
            format!(
                "largest --max-length in {memory} at --micro-batch {}: {}",
                choices.micro_batch,
                or_none(fit.largest_length)
            ),
        ];
        if self.plan.total_bytes <= fit.memory_bytes {
            lines.push(format!("it fits in {memory}"));
            return lines;
        }
        lines.push(format!("it does not fit in {memory}"));
        if fit.remedies.is_empty() {
            lines.push(nothing_helps(&self.choices, fit.shorter.as_ref()));
        } else {
            lines.push("it would with one of:".into());
        }
        let remedies = fit.remedies.iter();
        lines.extend(remedies.map(|(choices, plan)| {
            format!(
                "  {}  ({})",
                flags(&self.choices, choices),
                size(plan.total_bytes)
            )
        }));
        lines
    }
}

/// What is said where no switch makes a run fit, and rows would have to be shorter.
pub fn nothing_helps(choices: &MemoryChoices, shorter: Option<&MemoryChoices>) -> String {
    let instead = match shorter {
        Some(shorter) => format!(
            "rows of up to {} tokens fit with: {}",
            shorter.max_length,
            flags(choices, shorter)
        ),
        None => "rows of a single token do not fit either: take a smaller model".into(),
    };
    format!("nor with an adapter over int8, checkpointing and one row at once; {instead}")
}

/// The flags in which other choices differ.
pub fn flags(choices: &MemoryChoices, other: &MemoryChoices) -> String {
    let mut flags = Vec::new();
    if other.checkpointing != choices.checkpointing {
        flags.push("--checkpointing".to_string());
    }
    if let (Some(lora), None) = (&other.lora, &choices.lora) {
        flags.push(format!("--lora-rank {}", lora.rank));
    }
    if other.base_weights != choices.base_weights {
        flags.push(format!("--base-weights {}", other.base_weights));
    }
    if other.micro_batch != choices.micro_batch {
        flags.push(format!("--micro-batch {}", other.micro_batch));
    }
    if other.accumulate != choices.accumulate {
        flags.push(format!("--accumulate {}", other.accumulate));
    }
    if other.max_length != choices.max_length {
        flags.push(format!("--max-length {}", other.max_length));
    }
    flags.join(" ")
}

/// An amount of memory for people.
pub fn size(bytes: u64) -> String {
    if bytes >= 1_000_000_000 {
        format!("{:.2} GB", bytes as f64 / 1e9)
    } else {
        format!("{:.0} MB", bytes as f64 / 1e6)
    }
}

/// A length of time for people.
fn duration(seconds: f64) -> String {
    if seconds >= 5400.0 {
        format!("{:.1} hours", seconds / 3600.0)
    } else if seconds >= 90.0 {
        format!("{:.0} minutes", seconds / 60.0)
    } else {
        format!("{seconds:.0} s")
    }
}
