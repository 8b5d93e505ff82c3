//! What `bootstrap` takes.

use std::path::PathBuf;

use aligner_eval::bootstrap::{BootstrapFormat, BootstrapOptions, Filters, Upstreams};
use clap::Args;

use crate::error::{CliError, Result};

/// Arguments of `bootstrap`.
#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// Directory of an evaluation: answers and their corrections.
    #[arg(value_name = "DIR")]
    pub eval: PathBuf,
    /// Directory of the rows and their manifest.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// sft, sft-messages, sft-text, dpo, kto, or qac to train an Aligner on.
    #[arg(long, value_name = "NAME", default_value = "sft")]
    pub format: BootstrapFormat,
    /// Only answers of this upstream.
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Answers of every upstream, of each question the best.
    #[arg(long, conflicts_with = "upstream")]
    pub all_upstreams: bool,
    /// Leave out corrections that changed less than this share.
    #[arg(long, value_name = "X")]
    pub min_edit_ratio: Option<f64>,
    /// Leave out corrections that changed more.
    #[arg(long, value_name = "X")]
    pub max_edit_ratio: Option<f64>,
    /// Leave out corrections whose reward rose by less (needs `eval score`).
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub min_reward_margin: Option<f64>,
    /// Keep corrections whose cost rose.
    #[arg(long)]
    pub allow_higher_cost: bool,
    /// Leave out corrections that refuse where the answer did not.
    #[arg(long)]
    pub drop_new_refusals: bool,
    /// Keep questions that are nearly the same.
    #[arg(long)]
    pub keep_near_duplicates: bool,
    /// Share of the questions that goes to valid.jsonl.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub valid_share: f64,
    /// The round before this one: its directory or manifest.
    #[arg(long, value_name = "DIR")]
    pub parent: Option<PathBuf>,
    /// Directory of an Aligner by the name it has in the evaluation, for the licence of its data.
    #[arg(long, value_name = "NAME=DIR")]
    pub aligner: Vec<String>,
    /// Licence of a data set: NAME=LICENCE.
    #[arg(long, value_name = "NAME=LICENCE")]
    pub licence: Vec<String>,
    /// Seed of the split and the order.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Write over rows that are there.
    #[arg(long)]
    pub overwrite: bool,
}

impl BootstrapArgs {
    /// What rows are wanted.
    pub fn options(&self) -> Result<BootstrapOptions> {
        let defaults = Filters::default();
        let mut options = BootstrapOptions {
            format: self.format,
            filters: Filters {
                min_edit_ratio: self.min_edit_ratio,
                max_edit_ratio: self.max_edit_ratio,
                min_reward_margin: self.min_reward_margin,
                allow_higher_cost: self.allow_higher_cost,
                drop_new_refusals: self.drop_new_refusals,
                near_threshold: defaults.near_threshold.filter(|_| !self.keep_near_duplicates),
            },
            upstream: match &self.upstream {
                Some(name) => Upstreams::One(name.clone()),
                None if self.all_upstreams => Upstreams::All,
                None => Upstreams::Only,
            },
            valid_share: self.valid_share,
            seed: self.seed,
            parent: self.parent.clone(),
            ..BootstrapOptions::default()
        };
        for typed in &self.aligner {
            let (name, dir) = pair(typed, "--aligner NAME=DIR")?;
            options.licences.read_aligner(name, dir.as_ref())?;
        }
        for typed in &self.licence {
            let (name, licence) = pair(typed, "--licence NAME=LICENCE")?;
            options
                .licences
                .datasets
                .insert(name.to_string(), licence.to_string());
        }
        Ok(options)
    }
}

fn pair<'a>(typed: &'a str, form: &str) -> Result<(&'a str, &'a str)> {
    let parts = typed.split_once('=');
    parts.ok_or_else(|| CliError::Usage(format!("{typed} has no =: {form}")))
}
