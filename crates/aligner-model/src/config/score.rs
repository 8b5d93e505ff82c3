//! What a model that scores answers has in place of an output projection, from its `config.json`.

use serde_json::{Map, Value, json};

use super::ModelConfig;
use super::fields::Fields;
use crate::error::{ModelError, Result};

/// The head of a reward or cost model.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreConfig {
    /// Whose files they are.
    pub layout: ScoreLayout,
    /// What the score is of.
    pub kind: ScoreKind,
    /// Scores of a sequence; a reward is the only one.
    pub outputs: usize,
    /// Whether the head has a bias.
    pub bias: bool,
    /// The token that pads sequences; what stands at a sequence's end is not scored.
    pub pad_id: Option<u32>,
    /// How scores are normalised, where they are.
    pub normalization: Option<Normalization>,
}

/// How a score model's files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreLayout {
    /// transformers' `…ForSequenceClassification`: `score.weight`.
    SequenceClassification,
    /// Safe-RLHF's `…ForScore` (Dai et al. 2023, arXiv 2310.12773, and their code): `score_head` with or without a bias, and
    /// a normaliser.
    SafeRlhf,
}

/// What a score is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ScoreKind {
    /// Higher is better.
    #[default]
    Reward,
    /// Higher is more harmful; above 0 is unsafe.
    Cost,
}

impl ScoreKind {
    /// As `score_type` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reward => "reward",
            Self::Cost => "cost",
        }
    }
}

impl std::fmt::Display for ScoreKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The mean and variance of the scores seen in training: a reward becomes `(score − mean) / √variance`, a cost, whose sign
/// says safe or unsafe, `score / √variance`.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    /// Mean of each output.
    pub mean: Vec<f32>,
    /// Variance of each output.
    pub variance: Vec<f32>,
}

impl ScoreConfig {
    /// The token of a sequence whose hidden state is scored: the last one that is no padding, as transformers chooses it.
    ///
    /// Safe-RLHF goes by the attention mask instead, so that the last token of a sequence is scored whatever it is.
    pub fn end_of(&self, ids: &[u32]) -> usize {
        let last = ids.len().saturating_sub(1);
        match (self.layout, self.pad_id) {
            (ScoreLayout::SequenceClassification, Some(pad)) => {
                ids.iter().rposition(|&id| id != pad).unwrap_or(0)
            }
            _ => last,
        }
    }

    /// Scores as the model means them.
    pub fn normalized(&self, scores: &[f32]) -> Vec<f64> {
        /// As in Safe-RLHF's code.
        const EPSILON: f64 = 1e-8;
        let raw = scores.iter().map(|&score| f64::from(score));
        let Some(Normalization { mean, variance }) = &self.normalization else {
            return raw.collect();
        };
        let numbers = mean.iter().zip(variance);
        raw.zip(numbers)
            .map(|(score, (&mean, &variance))| {
                let mean = match self.kind {
                    ScoreKind::Reward => f64::from(mean),
                    ScoreKind::Cost => 0.0,
                };
                (score - mean) / (f64::from(variance).sqrt() + EPSILON)
            })
            .collect()
    }
}

/// The name of a score model's decoder, and its layout; `None` when the name is none of a score model.
pub(super) fn decoder_of(architecture: &str) -> Option<(String, ScoreLayout)> {
    let of = |ending, layout| Some((architecture.strip_suffix(ending)?, layout));
    let (stem, layout) = of("ForSequenceClassification", ScoreLayout::SequenceClassification)
        // The first release of Safe-RLHF's models, and the later ones.
        .or_else(|| of("ModelForScore", ScoreLayout::SafeRlhf))
        .or_else(|| of("ForScore", ScoreLayout::SafeRlhf))?;
    // The text model of a family that has pictures too.
    let stem = if stem == "Gemma3Text" { "Gemma3" } else { stem };
    Some((format!("{stem}ForCausalLM"), layout))
}

fn classifier_of(architecture: &str) -> String {
    let stem = architecture.trim_end_matches("ForCausalLM");
    let stem = if stem == "Gemma3" { "Gemma3Text" } else { stem };
    format!("{stem}ForSequenceClassification")
}

/// The head that a `config.json` describes; `None` for a model that writes.
pub(super) fn read(fields: &Fields<'_>) -> Result<Option<ScoreConfig>> {
    let named = fields.0.get("architectures").and_then(|list| list.get(0));
    let Some((_, layout)) = named.and_then(Value::as_str).and_then(decoder_of) else {
        return Ok(None);
    };
    let kind = match fields.text("score_type") {
        None | Some("reward") => ScoreKind::Reward,
        Some("cost") => ScoreKind::Cost,
        Some(other) => {
            let reason = format!("{other:?} is not supported; supported are reward, cost");
            return Err(ModelError::config("score_type", reason));
        }
    };
    let (outputs, bias, normalizes) = match layout {
        ScoreLayout::SequenceClassification => {
            let labels = fields
                .object("id2label")?
                .map(Map::len)
                .filter(|&count| count > 0);
            // transformers leaves its default of two out.
            let outputs = labels.or(fields.dimension("num_labels")?).unwrap_or(2);
            (outputs, false, false)
        }
        ScoreLayout::SafeRlhf => (
            fields.dimension("score_dim")?.unwrap_or(1),
            fields
                .boolean("score_bias")?
                .or(fields.boolean("bias")?)
                .unwrap_or(false),
            fields.boolean("do_normalize")?.unwrap_or(false),
        ),
    };
    let numbers = |name: &'static str, default: f32| match fields.0.get(name) {
        None | Some(Value::Null) => Ok(vec![default; outputs]),
        Some(value) => value
            .as_array()
            .and_then(|list| list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect())
            .filter(|list: &Vec<f32>| list.len() == outputs)
            .ok_or_else(|| ModelError::config(name, format!("is not a list of {outputs} numbers"))),
    };
    let normalization = match normalizes {
        true => Some(Normalization {
            mean: numbers("mean", 0.0)?,
            variance: numbers("var", 1.0)?,
        }),
        false => None,
    };
    Ok(Some(ScoreConfig {
        layout,
        kind,
        outputs,
        bias,
        pad_id: pad_id(fields.0),
        normalization,
    }))
}

/// The token that pads sequences. A number that is none names no token: null, or −1, as some libraries write it.
fn pad_id(raw: &Map<String, Value>) -> Option<u32> {
    let id = raw.get("pad_token_id").and_then(Value::as_u64);
    id.and_then(|id| u32::try_from(id).ok())
}

impl ModelConfig {
    /// The configuration of a model with this decoder that gives one score instead of tokens, laid out as transformers'
    /// sequence classification. What `config.json` says of the decoder is kept.
    #[must_use]
    pub fn into_score(mut self, kind: ScoreKind) -> Self {
        let name = classifier_of(&self.architecture);
        for (key, value) in [
            ("architectures", json!([name])),
            ("id2label", json!({"0": kind.name()})),
            ("label2id", json!({kind.name(): 0})),
            ("score_type", kind.name().into()),
        ] {
            self.raw.insert(key.into(), value);
        }
        self.score = Some(ScoreConfig {
            layout: ScoreLayout::SequenceClassification,
            kind,
            outputs: 1,
            bias: false,
            pad_id: pad_id(&self.raw),
            normalization: None,
        });
        // There is no output projection that could be apart from the embedding.
        self.tie_embeddings = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LlamaShape;

    fn raw(change: Value) -> Map<String, Value> {
        let shape = LlamaShape {
            vocab_size: 32,
            hidden_size: 16,
            intermediate_size: 24,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            max_positions: 64,
        };
        let mut raw = ModelConfig::llama(shape).unwrap().raw;
        raw.extend(change.as_object().unwrap().clone());
        raw
    }

    #[test]
    fn each_layout_is_told_by_its_architecture() {
        let read = |change| ModelConfig::score_from_map(raw(change)).unwrap().score.unwrap();
        let head = read(json!({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "x"}}));
        assert_eq!(
            (head.layout, head.kind, head.outputs, head.bias),
            (ScoreLayout::SequenceClassification, ScoreKind::Reward, 1, false)
        );
        assert_eq!(
            read(json!({"architectures": ["LlamaForSequenceClassification"]})).outputs,
            2
        );
        for name in ["LlamaForScore", "LlamaModelForScore"] {
            let head = read(json!({
                "architectures": [name], "score_type": "cost", "bias": true, "do_normalize": true, "var": [4.0],
            }));
            assert_eq!(
                (head.layout, head.kind, head.bias),
                (ScoreLayout::SafeRlhf, ScoreKind::Cost, true)
            );
            assert_eq!(head.normalization.as_ref().unwrap().mean, [0.0]);
            // A cost is scaled alone: its sign has a meaning.
            assert!((head.normalized(&[3.0])[0] - 1.5).abs() < 1e-7);
        }
    }

    #[test]
    fn a_reward_is_centred_and_scaled() {
        let config = ScoreConfig {
            layout: ScoreLayout::SafeRlhf,
            kind: ScoreKind::Reward,
            outputs: 1,
            bias: false,
            pad_id: None,
            normalization: Some(Normalization {
                mean: vec![1.0],
                variance: vec![4.0],
            }),
        };
        assert!((config.normalized(&[3.0])[0] - 1.0).abs() < 1e-7);
    }

    #[test]
    fn padding_at_the_end_is_not_scored_where_transformers_looks_for_it() {
        let mut config = ModelConfig::score_from_map(raw(json!({
            "architectures": ["LlamaForSequenceClassification"], "pad_token_id": 0,
        })))
        .unwrap()
        .score
        .unwrap();
        assert_eq!(
            (
                config.end_of(&[5, 6, 0, 0]),
                config.end_of(&[0, 0]),
                config.end_of(&[5])
            ),
            (1, 0, 0)
        );
        config.layout = ScoreLayout::SafeRlhf;
        assert_eq!(config.end_of(&[5, 6, 0, 0]), 3);
    }

    #[test]
    fn a_padding_token_of_minus_one_or_null_is_none() {
        for pad in [json!(-1), Value::Null] {
            let config =
                raw(json!({"architectures": ["LlamaForSequenceClassification"], "pad_token_id": pad}));
            let head = ModelConfig::score_from_map(config).unwrap().score.unwrap();
            assert_eq!((head.pad_id, head.end_of(&[5, 0, 0])), (None, 2));
            let writes = ModelConfig::from_map(raw(json!({ "pad_token_id": pad }))).unwrap();
            assert_eq!(writes.into_score(ScoreKind::Reward).score.unwrap().pad_id, None);
        }
    }

    #[test]
    fn a_score_model_is_not_taken_for_one_that_writes_nor_the_other_way_round() {
        let error = ModelConfig::from_map(raw(json!({"architectures": ["LlamaForSequenceClassification"]})));
        assert!(matches!(error, Err(ModelError::IsScoreModel { .. })));
        let error = ModelConfig::score_from_map(raw(json!({})));
        assert!(matches!(error, Err(ModelError::NoScoreModel { .. })));
        let error =
            ModelConfig::score_from_map(raw(json!({"architectures": ["BertForSequenceClassification"]})));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("BertForSequenceClassification")
        );
        let critic = json!({"architectures": ["LlamaForScore"], "score_type": "critic"});
        assert!(
            ModelConfig::score_from_map(raw(critic))
                .unwrap_err()
                .to_string()
                .contains("critic")
        );
    }

    #[test]
    fn a_new_score_model_keeps_what_its_decoder_is() {
        let config = ModelConfig::from_map(raw(json!({"tie_word_embeddings": false}))).unwrap();
        let score = config.clone().into_score(ScoreKind::Cost);
        assert_eq!(score.raw["architectures"][0], "LlamaForSequenceClassification");
        let read = ModelConfig::score_from_map(score.raw.clone()).unwrap();
        assert_eq!(read, score);
        let head = read.score.unwrap();
        assert_eq!((head.outputs, head.kind), (1, ScoreKind::Cost));
    }
}
