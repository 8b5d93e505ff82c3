//! How much memory training takes, told before it begins: arithmetic on a model's shape, without a tensor.
//!
//! Everything is f32. Two moments of a step can be its highest: the end of the forward pass, when all that the backward pass
//! needs is there and hardly a gradient, and the end of the backward pass, when it is the other way round. In between, one
//! shrinks and the other grows evenly, so that no other moment is higher.

use aligner_model::{Activation, LoraConfig, ModelConfig, NormPlacement, QkNorm, WeightFormat};
use serde::Serialize;

/// Bytes of an element.
const ELEMENT: f64 = 4.0;
/// Logits that exist at once, in elements, as `aligner_model::kernels::token_nll` has them.
const LOGITS: f64 = (1u32 << 23) as f64;
/// The program, its threads and their stacks (measured: 24 MB without pages of files, 20 MB of those).
const PROGRAM_BYTES: f64 = 45e6;
/// The tokenizer, for each token of the vocabulary (measured: 157 MB for 49 152 of them, rows of a small data set included).
const TOKENIZER_BYTES: f64 = 3200.0;
/// What the allocator holds beside what is in use, as a share of what comes and goes within a step (measured).
const HELD_SHARE: f64 = 0.10;
/// And as a share of the moments: fitted to what full runs take beyond the rest, which runs of adapters do not. Likely, not
/// shown: moments are made when the first step ends, where its activations lay, and the next step's do not fit between them.
const GAPS_SHARE: f64 = 0.40;

/// What of a run decides how much memory it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryChoices {
    /// Rows that go through the model at once.
    pub micro_batch: usize,
    /// Tokens of each of them: the longest that is allowed.
    pub max_length: usize,
    /// Micro-batches of one optimizer step.
    pub accumulate: usize,
    /// The adapter that is trained instead of all weights.
    pub lora: Option<LoraConfig>,
    /// Whether activations are computed again in the backward pass.
    pub checkpointing: bool,
    /// How the base's linear layers are held under an adapter.
    pub base_weights: WeightFormat,
}

/// When memory is at its highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeakMoment {
    /// When the loss is known.
    ForwardEnd,
    /// When the last gradient is known.
    BackwardEnd,
}

/// What is in memory when it is at its highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// When that is.
    pub moment: PeakMoment,
    /// The model's weights, an adapter's included.
    pub weights_bytes: u64,
    /// AdamW's two moments of each trained weight.
    pub moments_bytes: u64,
    /// Gradients at that moment, those of earlier micro-batches included.
    pub gradients_bytes: u64,
    /// Activations kept for the backward pass at that moment.
    pub activations_bytes: u64,
    /// Logits of as many rows as are computed at once.
    pub logits_bytes: u64,
    /// Buffers of one layer, and of the rows between layers.
    pub scratch_bytes: u64,
    /// Memory that was given back and waits in the allocator for other sizes.
    pub held_bytes: u64,
    /// The program and the tokenizer.
    pub fixed_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// Whether the model has parts whose activations are not all counted: it takes at least this.
    pub is_lower_bound: bool,
}

impl MemoryPlan {
    /// The plan of a run.
    ///
    /// The worst case: every row as long as allowed, and every token of it a target.
    pub fn of(config: &ModelConfig, choices: &MemoryChoices) -> Self {
        let shape = Shape::of(config, choices);
        let adapter = choices
            .lora
            .as_ref()
            .map_or(0.0, |lora| adapter_parameters(config, lora));
        let is_full = choices.lora.is_none();
        let weights = config.parameters() as f64 + adapter - held_less(config, choices.base_weights);
        let trained = if is_full { weights } else { adapter };
        let earlier = if choices.accumulate > 1 { trained } else { 0.0 };
        let table = if is_full { shape.vocab * shape.hidden } else { 0.0 };
        // The output projection's gradient comes with the loss; when it is the embedding, that has a second one at the end.
        let second = if config.tie_embeddings { table } else { 0.0 };
        let layers = config.layers as f64;
        let one_layer = shape.kept_of_layer().max(shape.computed_again());
        let forward = [earlier + table, shape.tokens * (layers * shape.kept_of_layer())];
        let backward = [earlier + trained + second, shape.tokens * one_layer];
        let sum = |parts: &[f64; 2]| parts[0] + parts[1];
        let (moment, [gradients, activations]) = if sum(&forward) >= sum(&backward) {
            (PeakMoment::ForwardEnd, forward)
        } else {
            (PeakMoment::BackwardEnd, backward)
        };
        let panel = largest_panel(config, choices.base_weights);
        let (logits, scratch) = (shape.logits(), shape.tokens * shape.scratch() + panel);
        let held = HELD_SHARE * (gradients + activations + logits + scratch) + GAPS_SHARE * 2.0 * trained;
        let fixed = PROGRAM_BYTES + TOKENIZER_BYTES * shape.vocab;
        // Saturates: what no machine has need not be told apart.
        let bytes = |elements: f64| (elements * ELEMENT) as u64;
        let all = weights + 2.0 * trained + gradients + activations + logits + scratch + held;
        Self {
            moment,
            weights_bytes: bytes(weights),
            moments_bytes: bytes(2.0 * trained),
            gradients_bytes: bytes(gradients),
            activations_bytes: bytes(activations),
            logits_bytes: bytes(logits),
            scratch_bytes: bytes(scratch),
            held_bytes: bytes(held),
            fixed_bytes: fixed as u64,
            total_bytes: (all * ELEMENT + fixed) as u64,
            is_lower_bound: !shape.is_counted_exactly(),
        }
    }

    /// The most rows of `choices.max_length` tokens that fit at once; `None` when not even one does.
    pub fn largest_micro_batch(
        config: &ModelConfig,
        choices: &MemoryChoices,
        memory_bytes: u64,
    ) -> Option<usize> {
        largest(1 << 20, |micro_batch| {
            let choices = MemoryChoices {
                micro_batch,
                ..choices.clone()
            };
            Self::of(config, &choices).total_bytes <= memory_bytes
        })
    }

    /// The most tokens that `choices.micro_batch` rows can have, up to what the model was made for; `None` when not even
    /// one does.
    pub fn largest_length(config: &ModelConfig, choices: &MemoryChoices, memory_bytes: u64) -> Option<usize> {
        largest(config.max_positions, |max_length| {
            let choices = MemoryChoices {
                max_length,
                ..choices.clone()
            };
            Self::of(config, &choices).total_bytes <= memory_bytes
        })
    }

    /// Choices that make a run fit that does not: one change where one is enough, else the least that are.
    pub fn remedies(config: &ModelConfig, choices: &MemoryChoices, memory_bytes: u64) -> Vec<MemoryChoices> {
        let fits = |choices: &MemoryChoices| Self::of(config, choices).total_bytes <= memory_bytes;
        let again = MemoryChoices {
            checkpointing: true,
            ..choices.clone()
        };
        let lora = MemoryChoices {
            lora: choices.lora.clone().or(Some(LoraConfig::default())),
            ..choices.clone()
        };
        let both = MemoryChoices {
            checkpointing: true,
            ..lora.clone()
        };
        let fewer = |choices: &MemoryChoices| {
            let most = Self::largest_micro_batch(config, choices, memory_bytes)?;
            let rows = choices.micro_batch.saturating_mul(choices.accumulate);
            // More micro-batches than one keep gradients of their own: the most that fit may not any more.
            [most, most / 2, 1]
                .into_iter()
                .filter(|&micro_batch| micro_batch > 0)
                .map(|micro_batch| MemoryChoices {
                    micro_batch,
                    accumulate: rows.div_ceil(micro_batch),
                    ..choices.clone()
                })
                .find(fits)
        };
        let single: Vec<MemoryChoices> = [again.clone(), lora.clone()]
            .into_iter()
            .filter(|changed| changed != choices && fits(changed))
            .chain(fewer(choices))
            .collect();
        if !single.is_empty() {
            return single;
        }
        if fits(&both) {
            return vec![both];
        }
        [fewer(&again), fewer(&lora), fewer(&both)]
            .into_iter()
            .flatten()
            .take(1)
            .collect()
    }
}

/// The largest number in `1..=most` for which `fits` holds; it holds for all numbers up to some.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if most == 0 || !fits(1) {
        return None;
    }
    let (mut good, mut beyond) = (1, most.saturating_add(1));
    while beyond - good > 1 {
        let middle = good + (beyond - good) / 2;
        if fits(middle) {
            good = middle;
        } else {
            beyond = middle;
        }
    }
    Some(good)
}

/// The linear layers of a block: name, input and output.
fn linear_layers(config: &ModelConfig) -> [(&'static str, usize, usize); 7] {
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    [
        ("self_attn.q_proj", hidden, queries),
        ("self_attn.k_proj", hidden, keys),
        ("self_attn.v_proj", hidden, keys),
        ("self_attn.o_proj", queries, hidden),
        ("mlp.gate_proj", hidden, inner),
        ("mlp.up_proj", hidden, inner),
        ("mlp.down_proj", inner, hidden),
    ]
}

/// What a format takes less than f32 for all linear layers of the blocks, in elements of f32.
fn held_less(config: &ModelConfig, format: WeightFormat) -> f64 {
    let less = |(_, input, output)| {
        (WeightFormat::F32.bytes(input, output) - format.bytes(input, output)) as f64 / ELEMENT
    };
    linear_layers(config).map(less).iter().sum::<f64>() * config.layers as f64
}

/// The largest part of a weight that is there as f32 for a product, in elements.
fn largest_panel(config: &ModelConfig, format: WeightFormat) -> f64 {
    let panels = linear_layers(config).map(|(_, input, output)| format.scratch_bytes(input, output));
    panels.into_iter().max().unwrap_or(0) as f64 / ELEMENT
}

/// Weights of an adapter, in elements.
fn adapter_parameters(config: &ModelConfig, lora: &LoraConfig) -> f64 {
    let mut widths = 0;
    for layer in 0..config.layers {
        for (name, input, output) in linear_layers(config) {
            let width = input + output;
            if lora
                .target_modules
                .contains(&format!("model.layers.{layer}.{name}"))
            {
                widths += width;
            }
        }
    }
    widths as f64 * lora.rank as f64
}

/// Widths of what a token leaves in memory, in elements.
struct Shape<'a> {
    config: &'a ModelConfig,
    tokens: f64,
    length: f64,
    hidden: f64,
    inner: f64,
    queries: f64,
    keys: f64,
    vocab: f64,
    rank: f64,
    drops: bool,
    checkpointing: bool,
}

impl<'a> Shape<'a> {
    fn of(config: &'a ModelConfig, choices: &MemoryChoices) -> Self {
        Self {
            config,
            tokens: choices.micro_batch as f64 * choices.max_length as f64,
            length: choices.max_length as f64,
            hidden: config.hidden_size as f64,
            inner: config.intermediate_size as f64,
            queries: (config.heads * config.head_dim) as f64,
            keys: (config.kv_heads * config.head_dim) as f64,
            vocab: config.vocab_size as f64,
            rank: choices.lora.as_ref().map_or(0.0, |lora| lora.rank as f64),
            drops: choices.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0),
            checkpointing: choices.checkpointing,
        }
    }

    /// As `aligner_model::nn::Attention::fused`.
    fn attention_is_fused(&self) -> bool {
        self.config.qk_norm == QkNorm::None && self.config.attention_softcap.is_none() && !self.drops
    }

    /// As `aligner_model::nn::Mlp::fused`.
    fn mlp_is_fused(&self) -> bool {
        self.config.activation != Activation::Gelu && !self.drops
    }

    fn is_counted_exactly(&self) -> bool {
        self.attention_is_fused() && self.mlp_is_fused() && self.config.logit_softcap.is_none()
    }

    /// Queries, keys, values, the attention's output and its softmaxes' denominators.
    fn inside_attention(&self) -> f64 {
        2.0 * self.queries + 2.0 * self.keys + self.config.heads as f64
    }

    /// Each half keeps its input; what lies inside is kept too unless it is computed again. A half that is not one
    /// operation cannot compute again, and keeps what each of its operations does.
    fn kept_of_layer(&self) -> f64 {
        let attention = match (self.attention_is_fused(), self.checkpointing) {
            (true, true) => 0.0,
            (true, false) => self.inside_attention(),
            (false, _) => self.inside_attention() + self.kept_by_parts_of_attention(),
        };
        let mlp = match (self.mlp_is_fused(), self.checkpointing) {
            (true, true) => 0.0,
            (true, false) => 2.0 * self.inner,
            // The norm's output, the activation's, and the product.
            (false, _) => 4.0 * self.inner + self.hidden,
        };
        let norms_behind = if self.config.norms == NormPlacement::Before {
            0.0
        } else {
            2.0 * self.hidden
        };
        2.0 * self.hidden + attention + mlp + norms_behind
    }

    /// The norm's output, queries and keys before theirs, and scores where they are bounded.
    fn kept_by_parts_of_attention(&self) -> f64 {
        let normed = if self.config.qk_norm == QkNorm::None {
            0.0
        } else {
            self.queries + self.keys
        };
        // Scores, their tanh, and the softmax.
        let scores = if self.config.attention_softcap.is_some() {
            3.0 * self.config.heads as f64 * self.length
        } else {
            0.0
        };
        self.hidden + normed + scores
    }

    /// What one half of a layer computes again.
    fn computed_again(&self) -> f64 {
        2.0 * self.hidden + self.inside_attention().max(2.0 * self.inner)
    }

    /// The kernels' buffers: the norm's output and its gradient, the MLP's product and its gradient, those of queries (with
    /// the attention's output), keys and values, an adapter's inner rows; and between the layers the rows' own gradient,
    /// before and after, and the target rows with theirs.
    fn scratch(&self) -> f64 {
        let kernels =
            2.0 * self.hidden + 2.0 * self.inner + 2.0 * self.queries + 2.0 * self.keys + 2.0 * self.rank;
        kernels + 4.0 * self.hidden
    }

    fn logits(&self) -> f64 {
        let all = self.tokens * self.vocab;
        if self.config.logit_softcap.is_some() {
            // All at once, their tanh, the softmax, and the gradient.
            return 4.0 * all;
        }
        all.min(LOGITS.max(self.vocab))
    }
}

/// An amount of memory as people write it: `24GB`, `24GiB`, `800MB`, or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(pub u64);

impl std::str::FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not an amount of memory; write it as 24GB, 24GiB, 800MB or in bytes");
        let text_end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(text_end);
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let unit = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "t" | "tb" => 1e12,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return Err(wrong()),
        };
        let bytes = number * unit;
        if bytes.is_finite() && bytes >= 1.0 {
            Ok(Self(bytes as u64))
        } else {
            Err(wrong())
        }
    }
}

#[cfg(test)]
mod tests {
    use aligner_model::LlamaShape;

    use super::*;

    fn smollm2() -> ModelConfig {
        ModelConfig::llama(LlamaShape {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            max_positions: 8192,
        })
        .unwrap()
    }

    fn choices() -> MemoryChoices {
        MemoryChoices {
            micro_batch: 4,
            max_length: 512,
            accumulate: 1,
            lora: None,
            checkpointing: false,
            base_weights: WeightFormat::F32,
        }
    }

    #[test]
    fn parts_are_what_the_kernels_keep_and_add_up() {
        let plan = MemoryPlan::of(&smollm2(), &choices());
        assert_eq!(plan.weights_bytes, 134_515_008 * 4);
        assert_eq!(plan.moments_bytes, 2 * plan.weights_bytes);
        // x, q, k, v, context, log sums; x, gate, up.
        let a_token = 576 + 576 + 192 + 192 + 576 + 9 + 576 + 2 * 1536;
        assert_eq!(plan.activations_bytes, 2048 * 30 * a_token * 4);
        assert_eq!(plan.gradients_bytes, 49_152 * 576 * 4);
        let parts = plan.weights_bytes
            + plan.moments_bytes
            + plan.gradients_bytes
            + plan.activations_bytes
            + plan.logits_bytes
            + plan.scratch_bytes
            + plan.held_bytes
            + plan.fixed_bytes;
        assert!(plan.total_bytes.abs_diff(parts) < 8);
        assert!(!plan.is_lower_bound);
    }

    #[test]
    fn adapters_checkpointing_and_accumulation_do_what_they_do() {
        let config = smollm2();
        let of = |change: fn(&mut MemoryChoices)| {
            let mut choices = choices();
            change(&mut choices);
            MemoryPlan::of(&config, &choices)
        };
        let lora = of(|choices| choices.lora = Some(LoraConfig::default()));
        // PEFT counts 4 884 480 for rank 16 on every linear layer.
        assert_eq!(lora.moments_bytes, 2 * 4 * 4_884_480);
        let int8 = of(|choices| {
            choices.lora = Some(LoraConfig::default());
            choices.base_weights = WeightFormat::Int8;
        });
        // Nine bits instead of 32 for each weight of the linear layers, and a panel of the largest.
        let linear = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536);
        assert_eq!(lora.weights_bytes - int8.weights_bytes, linear / 8 * 23);
        assert_eq!(int8.scratch_bytes - lora.scratch_bytes, 4 * 576 * 1536);
        let again = of(|choices| choices.checkpointing = true);
        assert_eq!(again.moment, PeakMoment::BackwardEnd);
        assert!(again.activations_bytes < of(|_| ()).activations_bytes / 10);
        let accumulated = of(|choices| choices.accumulate = 2);
        let once = of(|_| ());
        assert_eq!(
            accumulated.gradients_bytes - once.gradients_bytes,
            once.weights_bytes
        );
    }

    #[test]
    fn what_fits_just_fits() {
        let config = smollm2();
        let memory = 6_000_000_000;
        let rows = MemoryPlan::largest_micro_batch(&config, &choices(), memory).unwrap();
        let total = |micro_batch| {
            MemoryPlan::of(
                &config,
                &MemoryChoices {
                    micro_batch,
                    ..choices()
                },
            )
            .total_bytes
        };
        assert!(total(rows) <= memory && total(rows + 1) > memory);
        let length = MemoryPlan::largest_length(&config, &choices(), memory).unwrap();
        let total = |max_length| {
            MemoryPlan::of(
                &config,
                &MemoryChoices {
                    max_length,
                    ..choices()
                },
            )
            .total_bytes
        };
        assert!(total(length) <= memory && total(length + 1) > memory);
        assert_eq!(
            MemoryPlan::largest_length(&config, &choices(), u64::MAX),
            Some(8192)
        );
        assert_eq!(
            MemoryPlan::largest_micro_batch(&config, &choices(), 1_000_000),
            None
        );
    }

    #[test]
    fn every_remedy_fits_and_there_is_none_where_nothing_helps() {
        let config = smollm2();
        let choices = MemoryChoices {
            micro_batch: 32,
            ..choices()
        };
        for memory in [1_500_000_000, 2_000_000_000, 3_000_000_000, 8_000_000_000] {
            let remedies = MemoryPlan::remedies(&config, &choices, memory);
            assert!(!remedies.is_empty(), "{memory}");
            for remedy in remedies {
                assert!(
                    MemoryPlan::of(&config, &remedy).total_bytes <= memory,
                    "{remedy:?}"
                );
            }
        }
        assert!(MemoryPlan::remedies(&config, &choices, 500_000_000).is_empty());
    }

    #[test]
    fn amounts_of_memory_are_read_as_they_are_written() {
        let bytes = |text: &str| text.parse::<MemorySize>().map(|size| size.0);
        assert_eq!(bytes("24GB"), Ok(24_000_000_000));
        assert_eq!(bytes("24GiB"), Ok(24 << 30));
        assert_eq!(bytes("800 mb"), Ok(800_000_000));
        assert_eq!(bytes("1.5G"), Ok(1_500_000_000));
        assert_eq!(bytes("4096"), Ok(4096));
        for wrong in ["", "GB", "24XB", "-1GB", "0", "nan", "infGB", "1e400"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
