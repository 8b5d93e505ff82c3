//! Widths of what a token leaves in memory, as the kernels of `aligner-model` have them.

use aligner_model::{
    Activation, DeviceSpec, LoraConfig, ModelConfig, NormPlacement, Precision, QkNorm, WeightFormat,
};

use super::MemoryChoices;

/// Logits that exist at once, in elements, as `aligner_model::kernels::token_nll` has them.
const LOGITS: f64 = (1u32 << 24) as f64;
/// Targets side by side, of which whole panels are computed.
const PANEL: f64 = 32.0;
/// Elements of the partial sums of the rows' gradients, and how many of these there are at least.
const SUMS: f64 = (1u32 << 22) as f64;
const LEAST_SUMS: f64 = 8.0;

/// The linear layers of a block: name, inputs, outputs.
fn projections(config: &ModelConfig) -> [(&'static str, usize, usize); 7] {
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

/// Weights of the matrices of all layers, in elements.
pub(crate) fn layer_matrices(config: &ModelConfig) -> f64 {
    let of_layer: f64 = projections(config)
        .iter()
        .map(|&(_, input, output)| input as f64 * output as f64)
        .sum();
    config.layers as f64 * of_layer
}

/// What a format takes less than f32 for the matrices of all layers, in bytes of the device's memory.
pub(super) fn held_less(config: &ModelConfig, choices: &MemoryChoices) -> f64 {
    let less = |(_, input, output)| {
        let held = match (choices.base_weights, choices.device) {
            // The integers lie in the machine's memory.
            (WeightFormat::Int8, device) if device != DeviceSpec::Cpu => 0,
            (format, _) => format.bytes(input, output),
        };
        (WeightFormat::F32.bytes(input, output) - held) as f64
    };
    projections(config).map(less).iter().sum::<f64>() * config.layers as f64
}

/// The largest part of a weight that is there as f32 for a product, in elements.
pub(super) fn largest_panel(config: &ModelConfig, choices: &MemoryChoices) -> f64 {
    let panels = projections(config).map(
        |(_, input, output)| match (choices.base_weights, choices.device) {
            // All of it, and once more on its way.
            (WeightFormat::Int8, device) if device != DeviceSpec::Cpu => {
                2 * WeightFormat::F32.bytes(input, output)
            }
            (format, _) => format.scratch_bytes(input, output),
        },
    );
    panels.into_iter().max().unwrap_or(0) as f64 / 4.0
}

/// Weights of an adapter, in elements.
pub(crate) fn adapter_parameters(config: &ModelConfig, lora: &LoraConfig) -> f64 {
    let mut widths = 0.0;
    for layer in 0..config.layers {
        for (name, input, output) in projections(config) {
            if lora
                .target_modules
                .contains(&format!("model.layers.{layer}.{name}"))
            {
                widths += (input + output) as f64;
            }
        }
    }
    widths * lora.rank as f64
}

/// See [`Shape::words`]. Products for an adapter's gradients read numbers as they are.
fn words(choices: &MemoryChoices) -> f64 {
    match choices.precision {
        Precision::F32 => 0.0,
        _ if choices.lora.is_some() => 0.0,
        native if native.is_native() => 0.5,
        _ => 1.0,
    }
}

/// Widths of what a token leaves in memory, in elements.
pub(super) struct Shape<'a> {
    config: &'a ModelConfig,
    pub tokens: f64,
    length: f64,
    pub hidden: f64,
    inner: f64,
    queries: f64,
    keys: f64,
    pub vocab: f64,
    rank: f64,
    drops: bool,
    checkpointing: bool,
    /// Numbers that a matrix takes as products over all tokens read it, for each of its own.
    words: f64,
    /// Whether the device has the fused operations; on any other each of Burn's operations keeps what it needs.
    pub fused: bool,
}

impl<'a> Shape<'a> {
    pub fn of(config: &'a ModelConfig, choices: &MemoryChoices) -> Self {
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
            words: words(choices),
            fused: choices.device == DeviceSpec::Cpu,
        }
    }

    /// As `aligner_model::nn::Attention::fused`.
    fn attention_is_one(&self) -> bool {
        self.config.qk_norm == QkNorm::None && self.config.attention_softcap.is_none() && !self.drops
    }

    /// As `aligner_model::nn::Mlp::fused`.
    fn mlp_is_one(&self) -> bool {
        self.config.activation != Activation::Gelu && !self.drops
    }

    pub fn is_counted_exactly(&self) -> bool {
        self.fused && self.attention_is_one() && self.mlp_is_one() && self.config.logit_softcap.is_none()
    }

    /// Queries, keys, values, the attention's output and its softmaxes' denominators.
    fn inside_attention(&self) -> f64 {
        2.0 * self.queries + 2.0 * self.keys + 2.0 * self.config.heads as f64
    }

    /// What a layer keeps in the kernels' buffers: what lies inside its halves, unless it is computed again.
    pub fn kept_in_buffers(&self) -> f64 {
        if !self.fused || self.checkpointing {
            return 0.0;
        }
        let attention = if self.attention_is_one() {
            self.inside_attention()
        } else {
            0.0
        };
        let mlp = if self.mlp_is_one() { 2.0 * self.inner } else { 0.0 };
        attention + mlp
    }

    /// What a layer keeps as tensors: the input of each half. A half that is not one operation cannot compute again, and keeps what
    /// each of its operations does.
    pub fn kept_as_tensors(&self) -> f64 {
        if !self.fused {
            return self.composed_layer();
        }
        let attention = match self.attention_is_one() {
            true => 0.0,
            false => self.inside_attention() + self.kept_by_parts_of_attention(),
        };
        let mlp = match self.mlp_is_one() {
            true => 0.0,
            // The norm's output, the activation's, and the product.
            false => 4.0 * self.inner + self.hidden,
        };
        2.0 * self.hidden + attention + mlp + self.norms_behind()
    }

    /// Tensors of a layer that are there when its backward pass ends.
    pub fn tensors_of_last_layer(&self) -> f64 {
        match self.fused {
            true => 0.0,
            false => self.kept_as_tensors().max(self.computed_again()),
        }
    }

    fn norms_behind(&self) -> f64 {
        match self.config.norms {
            NormPlacement::Before => 0.0,
            _ => 2.0 * self.hidden,
        }
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

    /// A layer of `aligner_model::kernels::reference`, operation by operation. Each norm keeps its input, that over its root,
    /// and its output; queries and keys are kept before and after their rotation; of all scores the exponentials, the
    /// weights and which are hidden; of the MLP the gate, its sigmoid, their product, `up` and what goes into `down`.
    /// Burn's checkpointing computes element-wise results again: what goes into matrix products stays.
    fn composed_layer(&self) -> f64 {
        let scores = self.config.heads as f64 * self.length;
        if self.checkpointing {
            let into_products = 2.0 * self.hidden + 2.0 * self.queries + 2.0 * self.keys + self.inner;
            return 2.0 * self.hidden + into_products + 2.0 * self.inner + scores + self.norms_behind();
        }
        let attention = 3.0 * self.hidden + 3.0 * self.queries + 3.0 * self.keys + 3.0 * scores;
        attention + 3.0 * self.hidden + 5.0 * self.inner + self.norms_behind()
    }

    /// What one half of a layer computes again.
    fn computed_again(&self) -> f64 {
        2.0 * self.hidden + self.inside_attention().max(2.0 * self.inner)
    }

    /// The buffers of a layer's backward pass beside what was kept, for each token.
    ///
    /// The MLP's has the norm's output, the gradients of its output and its input, and the product of gate and up. The attention's
    /// has the norm's output and the gradient of its own twice over with the context, then the gradients of queries, keys and values.
    /// Those of an adapter's rank come on top, what is computed again, and rounded copies of what the weights' gradients are made of. Of the two halves the higher counts; where they compute
    /// again both do, because buffers of other widths lie idle meanwhile.
    pub fn scratch(&self) -> f64 {
        let Self {
            hidden,
            inner,
            queries,
            keys,
            ..
        } = self;
        let (again_attention, again_mlp) = match self.checkpointing {
            true => (self.inside_attention(), 2.0 * inner),
            false => (0.0, 0.0),
        };
        let low = 2.0 * self.rank;
        let mlp = inner + 3.0 * hidden + low + again_mlp + self.words * (hidden + inner);
        let rounded = self.words * (hidden + queries);
        let before = 2.0 * hidden + 2.0 * queries + rounded;
        let behind = hidden + 2.0 * queries + 2.0 * keys + rounded;
        let attention = before.max(behind) + low + again_attention;
        match self.checkpointing {
            true => attention + mlp,
            false => attention.max(mlp),
        }
    }

    /// Logits, and partial sums of the gradients that they give.
    pub fn logits(&self) -> f64 {
        let all = self.tokens * self.vocab;
        if self.config.logit_softcap.is_some() || !self.fused {
            // All at once, their tanh or logarithms, the softmax, and the gradient.
            return 4.0 * all;
        }
        let most = (LOGITS / self.vocab / PANEL).floor().max(1.0) * PANEL;
        let targets = self.tokens.min(most);
        targets * self.vocab + SUMS.max(LEAST_SUMS * targets * self.hidden)
    }
}
