//! `aligner plan`

use std::io::Write;
use std::path::Path;

use aligner_hub::Files;
use aligner_model::{LoraAdapter, LoraConfig, ModelConfig, WeightFormat};
use aligner_train::{MemoryChoices, MemoryPlan, MemorySize, PeakMoment};
use serde_json::json;

use crate::args::PlanArgs;
use crate::error::{CliError, Result, stdout_error};
use crate::hub;

/// Tells how much memory a run takes, and what fits into what there is.
pub fn run(args: &PlanArgs) -> Result<()> {
    let (config, lora) = subject(args)?;
    if args.base_weights != WeightFormat::F32 && lora.is_none() {
        return Err(CliError::Usage(format!(
            "--base-weights {} is for a base under an adapter: give --lora-rank",
            args.base_weights
        )));
    }
    let choices = MemoryChoices {
        micro_batch: args.micro_batch,
        max_length: args.max_length,
        accumulate: args.accumulate,
        lora,
        checkpointing: args.checkpointing,
        base_weights: args.base_weights,
    };
    let answer = Answer::new(&config, choices, args.memory);
    let text = if args.json {
        answer.json().to_string()
    } else {
        answer.table()
    };
    writeln!(std::io::stdout(), "{text}").map_err(stdout_error)
}

/// The model that is trained, and the adapter over it: a new one, or one that goes on being trained.
fn subject(args: &PlanArgs) -> Result<(ModelConfig, Option<LoraConfig>)> {
    let dir = hub::local(&args.model, Files::Tokenizer)?;
    let asked = args.lora_rank.map(|rank| LoraConfig {
        rank,
        ..LoraConfig::default()
    });
    let (base, lora) = if LoraAdapter::is_in(&dir) {
        let adapter = LoraAdapter::read(&dir)?;
        if asked
            .as_ref()
            .is_some_and(|asked| asked.rank != adapter.config.rank)
        {
            return Err(CliError::Usage(format!(
                "{} is an adapter of rank {} already; leave --lora-rank out",
                dir.display(),
                adapter.config.rank
            )));
        }
        (adapter.base_dir(&dir)?, Some(adapter.config))
    } else {
        (dir, asked)
    };
    let config = ModelConfig::read(&base)?;
    check_length(&base, &config, args.max_length)?;
    Ok((config, lora))
}

fn check_length(model: &Path, config: &ModelConfig, max_length: usize) -> Result<()> {
    if max_length <= config.max_positions {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "--max-length {max_length}: {} was made for {} tokens",
        model.display(),
        config.max_positions
    )))
}

/// What is said.
struct Answer {
    choices: MemoryChoices,
    plan: MemoryPlan,
    fit: Option<Fit>,
}

/// What fits into the memory there is.
struct Fit {
    memory_bytes: u64,
    largest_micro_batch: Option<usize>,
    largest_length: Option<usize>,
    /// Where the run itself does not.
    remedies: Vec<(MemoryChoices, MemoryPlan)>,
}

impl Answer {
    fn new(config: &ModelConfig, choices: MemoryChoices, memory: Option<MemorySize>) -> Self {
        let plan = MemoryPlan::of(config, &choices);
        let fit = memory.map(|MemorySize(memory_bytes)| Fit {
            memory_bytes,
            largest_micro_batch: MemoryPlan::largest_micro_batch(config, &choices, memory_bytes),
            largest_length: MemoryPlan::largest_length(config, &choices, memory_bytes),
            remedies: if plan.total_bytes <= memory_bytes {
                Vec::new()
            } else {
                let remedies = MemoryPlan::remedies(config, &choices, memory_bytes);
                let with_plan = |choices| {
                    let plan = MemoryPlan::of(config, &choices);
                    (choices, plan)
                };
                remedies.into_iter().map(with_plan).collect()
            },
        });
        Self { choices, plan, fit }
    }

    fn json(&self) -> serde_json::Value {
        let fit = self.fit.as_ref().map(|fit| {
            let remedies = fit.remedies.iter().map(
                |(choices, plan)| json!({ "flags": self.flags(choices), "total_bytes": plan.total_bytes }),
            );
            json!({
                "memory_bytes": fit.memory_bytes,
                "fits": self.plan.total_bytes <= fit.memory_bytes,
                "largest_micro_batch": fit.largest_micro_batch,
                "largest_max_length": fit.largest_length,
                "remedies": remedies.collect::<Vec<_>>(),
            })
        });
        json!({
            "micro_batch": self.choices.micro_batch,
            "max_length": self.choices.max_length,
            "accumulate": self.choices.accumulate,
            "lora_rank": self.choices.lora.as_ref().map(|lora| lora.rank),
            "checkpointing": self.choices.checkpointing,
            "base_weights": self.choices.base_weights,
            "peak": self.plan,
            "fit": fit,
        })
    }

    fn table(&self) -> String {
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
        lines.join("\n")
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
            lines.push("nor with an adapter, checkpointing and one row at once: shorten --max-length, or take a smaller model".into());
        } else {
            lines.push("it would with one of:".into());
        }
        let remedies = fit.remedies.iter();
        lines.extend(
            remedies
                .map(|(choices, plan)| format!("  {}  ({})", self.flags(choices), size(plan.total_bytes))),
        );
        lines
    }

    /// The flags in which other choices differ.
    fn flags(&self, other: &MemoryChoices) -> String {
        let mut flags = Vec::new();
        if other.checkpointing != self.choices.checkpointing {
            flags.push("--checkpointing".to_string());
        }
        if let (Some(lora), None) = (&other.lora, &self.choices.lora) {
            flags.push(format!("--lora-rank {}", lora.rank));
        }
        if other.micro_batch != self.choices.micro_batch {
            flags.push(format!("--micro-batch {}", other.micro_batch));
        }
        if other.accumulate != self.choices.accumulate {
            flags.push(format!("--accumulate {}", other.accumulate));
        }
        flags.join(" ")
    }
}

fn size(bytes: u64) -> String {
    if bytes >= 1_000_000_000 {
        format!("{:.2} GB", bytes as f64 / 1e9)
    } else {
        format!("{:.0} MB", bytes as f64 / 1e6)
    }
}
