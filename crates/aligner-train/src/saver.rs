//! What is written beside the weights, so that a directory of them is an Aligner others can load.

use std::path::Path;

use aligner_data::{AlignerManifest, ChatFormat, Stage, Tokenizer};
use aligner_model::CausalDecoder;

use crate::checkpoint::replace_dir;
use crate::config::TrainConfig;
use crate::error::Result;
use crate::materials::Materials;
use crate::plan::Plan;
use crate::trainee::Form;

/// What makes a directory of weights a model others can load.
#[derive(Debug, Clone)]
pub(crate) struct ModelSaver {
    pub form: Form,
    pub tokenizer: Tokenizer,
    /// With the stages of the model that the run started from.
    pub manifest: AlignerManifest,
    /// How chats are written for a model of chats. Only an Aligner, which is none, has an `aligner.json`: others would be
    /// taken for one.
    pub chat: Option<ChatFormat>,
}

impl ModelSaver {
    /// Replaces the model at `place` by this one, which has done `step` steps of `plan`.
    pub fn save(&self, place: &Path, decoder: &CausalDecoder, plan: &Plan, step: u64) -> Result<()> {
        replace_dir(place, |dir| self.fill(dir, decoder, plan, step))
    }

    /// Writes it into a directory that is being made.
    pub fn fill(&self, dir: &Path, decoder: &CausalDecoder, plan: &Plan, step: u64) -> Result<()> {
        self.form.save(decoder, dir)?;
        self.tokenizer.save_to(dir)?;
        if let Some(chat) = &self.chat {
            return Ok(chat.record(dir)?);
        }
        let mut manifest = self.manifest.clone();
        manifest.stages.extend(stages_done(plan, step));
        Ok(manifest.write(dir)?)
    }

    /// Whether something is drawn at random in each step.
    pub fn has_dropout(&self) -> bool {
        self.form
            .adapter
            .as_ref()
            .is_some_and(|adapter| adapter.config.dropout > 0.0)
    }
}

/// The stages of a model that has done `step` steps of `plan`, with the steps it has done of each.
fn stages_done(plan: &Plan, step: u64) -> Vec<Stage> {
    let mut left = step;
    let stages = plan.stages().map(|stage| {
        let steps = stage.steps.min(left);
        left -= steps;
        Stage {
            kind: stage.kind.to_string(),
            steps,
            rows: stage.rows,
            identity_rows: stage.identity_rows,
            data_fingerprint: stage.data_fingerprint.clone(),
            lr: Some(stage.schedule.peak),
            sources: stage.sources.clone(),
        }
    });
    stages.filter(|stage| stage.steps > 0).collect()
}

/// The manifest of a run's models: with the base and the stages of the model that it starts from.
pub(crate) fn lineage(config: &TrainConfig, materials: &Materials, form: &Form) -> Result<AlignerManifest> {
    let adapter = form.adapter.as_ref();
    let base = adapter.map_or(&config.model, |adapter| &adapter.base);
    let hash = materials.tokenizer.hash();
    let mut manifest = AlignerManifest::new(materials.template.clone(), hash, &base_name(base));
    if let Some(earlier) = AlignerManifest::read(&config.model)? {
        manifest.base_model = earlier.base_model;
        manifest.stages = earlier.stages;
    }
    manifest.data_licence = (!config.data_licence.is_empty()).then(|| config.data_licence.clone());
    Ok(manifest)
}

/// What a model is called, without where it lay: the last part of its path, or `org/name@commit` when it lies in the
/// cache of the Hugging Face Hub. With the commit, because a branch moves on; `--model` takes it as it is.
fn base_name(model: &Path) -> String {
    let absolute = std::fs::canonicalize(model).unwrap_or_else(|_| model.to_path_buf());
    if let Some(name) = hub_name(&absolute) {
        return name;
    }
    absolute
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// `…/models--org--name/snapshots/COMMIT` as `org/name@COMMIT`.
fn hub_name(snapshot: &Path) -> Option<String> {
    let commit = snapshot.file_name()?.to_str()?;
    let folder = snapshot.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let id = folder.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    // No part of a repository's name holds two hyphens in a row.
    Some(format!("{}@{commit}", id.replace("--", "/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_from_the_hub_is_named_as_there() {
        let name = |path: &str| base_name(Path::new(path));
        let commit = "1111111111111111111111111111111111111111";
        let snapshot = format!("/cache/hub/models--org--name-1.5/snapshots/{commit}");
        assert_eq!(name(&snapshot), format!("org/name-1.5@{commit}"));
        assert_eq!(name("/models/base"), "base");
        assert_eq!(name("/models/snapshots/base"), "base");
    }
}
