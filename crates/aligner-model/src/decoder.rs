//! The decoder: embedding, blocks, final norm, output projection.

use burn::module::{Module, ModuleDisplay};
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, Int, Tensor};

use crate::config::{LayerRope, ModelConfig};
use crate::error::Result;
use crate::kernels::{self, HeadLayout, Sequences, WeightFormat};
use crate::nn::{
    Block, CausalMask, KvCache, Packed, Projection, ProjectionWeight, RmsNorm, RmsNormConfig, Rope, Rotation,
    Rotations, Step,
};
use crate::steering::Steering;
use crate::weights;

/// A causal language model without its tokenizer: ids in, hidden states or logits out.
///
/// One type serves training and inference. Load it on `device.autodiff()` to train; pass a [`KvCache`] to decode.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct CausalDecoder {
    /// Token embedding: `[vocab_size, hidden_size]`.
    pub embed_tokens: Embedding,
    /// The layers.
    pub layers: Vec<Block>,
    /// Final norm.
    pub norm: RmsNorm,
    /// Output projection `[hidden_size, vocab_size]`; absent when it is the embedding.
    pub lm_head: Option<Projection>,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    local_rope: Option<Rope>,
    #[module(skip)]
    scales: Scales,
    #[module(skip)]
    pub(crate) steering: Steering,
    recompute: bool,
    kv_heads: usize,
    head_dim: usize,
}

impl ModuleDisplay for CausalDecoder {}

/// What some families do to embeddings and logits, and whether a layer goes without rotation.
#[derive(Debug, Clone, Copy)]
struct Scales {
    embedding: Option<f64>,
    logit_softcap: Option<f64>,
    has_layer_without_rope: bool,
}

impl CausalDecoder {
    /// A decoder with zero weights; [`weights`] fills it.
    pub(crate) fn empty(config: &ModelConfig, device: &Device) -> Self {
        let embedding = EmbeddingConfig::new(config.vocab_size, config.hidden_size);
        Self {
            embed_tokens: embedding.with_initializer(Initializer::Zeros).init(device),
            layers: config
                .layer_kinds
                .iter()
                .map(|&kind| Block::new(config, kind, device))
                .collect(),
            norm: RmsNormConfig::of(config, config.hidden_size).init(device),
            lm_head: (!config.tie_embeddings)
                .then(|| Projection::new(config.hidden_size, config.vocab_size, false, device)),
            rope: Rope::new(&config.rope),
            local_rope: config.local_rope.as_ref().map(Rope::new),
            scales: Scales {
                embedding: config.embedding_scale,
                logit_softcap: config.logit_softcap,
                has_layer_without_rope: config.layer_kinds.iter().any(|kind| kind.rope == LayerRope::None),
            },
            steering: Steering::default(),
            recompute: false,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// A decoder with new weights: normal with `config.initializer_range`, norms 1, biases 0.
    ///
    /// The same seed gives the same weights on every device.
    ///
    /// # Errors
    /// None today; the signature leaves room for devices that run out of memory.
    pub fn random(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        weights::random(config, seed, device)
    }

    /// An empty cache for `batch` sequences of up to `capacity` tokens, on the decoder's device.
    pub fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        let device = self.norm.weight.val().device().inner();
        KvCache::new(
            self.layers.len(),
            [batch, self.kv_heads, capacity, self.head_dim],
            &device,
        )
    }

    /// Computes each layer's activations again in the backward pass instead of keeping them: a fifth more time for a fraction
    /// of the memory. Off at first.
    pub fn with_recompute(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

    /// Runs the blocks and the final norm over `ids`, behind the tokens of `cache` when one is given.
    ///
    /// Sequences of a batch that are shorter than `tokens` are padded on the right: a causal model's tokens never see
    /// what comes after them, so the padding needs no mask, and its hidden states are meaningless.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, hidden_size]`
    ///
    /// # Panics
    /// When the cache has no room for `tokens` more, or was made for another batch: both are errors of the caller, which
    /// knows the lengths.
    pub fn forward(&self, ids: Tensor<2, Int>, cache: Option<&mut KvCache>) -> Tensor<3> {
        let [batch, tokens] = ids.dims();
        let Some(cache) = cache else {
            let ids = ids.reshape([batch * tokens]);
            let hidden = self.forward_packed(ids, &Sequences::equal(batch, tokens));
            return hidden.reshape([batch as i64, tokens as i64, -1]);
        };
        let device = ids.device();
        let start = cache.len();
        assert!(
            start + tokens <= cache.capacity(),
            "the cache holds {} tokens",
            cache.capacity()
        );
        let step = Step {
            rotations: self.rotations(start, tokens, &device),
            mask: CausalMask::new(start, tokens, &device),
            start,
        };
        let mut x = self.embed(ids);
        for (index, (block, cache)) in self.layers.iter().zip(cache.layers_mut()).enumerate() {
            x = self.steering.behind(index, block.forward(x, &step, cache));
        }
        cache.advance(tokens);
        self.norm.forward(x)
    }

    /// Runs the blocks and the final norm over sequences that lie one behind the other, without padding: each is computed as
    /// if it were alone.
    ///
    /// # Shapes
    /// - `ids`: `[tokens]`, those of all `sequences`
    /// - output: `[tokens, hidden_size]`
    ///
    /// # Panics
    /// When the lengths do not add up to `tokens`.
    pub fn forward_packed(&self, ids: Tensor<1, Int>, sequences: &Sequences) -> Tensor<2> {
        self.packed_rows(ids, sequences, None)
    }

    /// [`forward_packed`](Self::forward_packed), of which only `rows` are returned: the last MLP computes those alone.
    pub(crate) fn packed_rows(
        &self,
        ids: Tensor<1, Int>,
        sequences: &Sequences,
        rows: Option<Tensor<1, Int>>,
    ) -> Tensor<2> {
        let x = self.through_layers(ids, sequences, rows, |_| {});
        self.norm.forward(x)
    }

    /// [`packed_rows`](Self::packed_rows) without the final norm; `behind_layer` sees what each layer gives.
    pub(crate) fn through_layers(
        &self,
        ids: Tensor<1, Int>,
        sequences: &Sequences,
        mut rows: Option<Tensor<1, Int>>,
        mut behind_layer: impl FnMut(&Tensor<2>),
    ) -> Tensor<2> {
        let [tokens] = ids.dims();
        assert_eq!(sequences.tokens(), tokens, "tokens of the sequences");
        let packed = Packed {
            rotations: self.rotations(0, sequences.longest(), &ids.device()),
            sequences: sequences.clone(),
            recompute: self.recompute,
        };
        let mut x = self.scaled(kernels::embedding(self.embed_tokens.weight.val(), ids));
        for (index, block) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            let out = block.forward_packed(x, &packed, if last { rows.take() } else { None });
            x = self.steering.behind(index, out);
            behind_layer(&x);
        }
        // A decoder without layers.
        if let Some(rows) = rows {
            x = x.select(0, rows);
        }
        x
    }

    fn rotations(&self, start: usize, tokens: usize, device: &Device) -> Rotations {
        let none = self.scales.has_layer_without_rope;
        Rotations {
            global: self.rope.rotation(start, tokens, device),
            local: self
                .local_rope
                .as_ref()
                .map(|rope| rope.rotation(start, tokens, device)),
            none: none.then(|| Rotation::none(tokens, device)),
        }
    }

    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, hidden_size]`
    fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.scaled(self.embed_tokens.forward(ids))
    }

    fn scaled<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.scales.embedding {
            Some(scale) => x * scale,
            None => x,
        }
    }

    /// Scores of every token of the vocabulary as the next one, before the softmax.
    ///
    /// # Shapes
    /// - `hidden_states`: `[batch, tokens, hidden_size]`, as [`forward`](Self::forward) returns them
    /// - output: `[batch, tokens, vocab_size]`
    pub fn logits(&self, hidden_states: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, width] = hidden_states.dims();
        let logits = self.logits_of_rows(hidden_states.reshape([batch * tokens, width]));
        let vocab_size = logits.dims()[1];
        logits.reshape([batch, tokens, vocab_size])
    }

    /// [`logits`](Self::logits) of chosen rows.
    ///
    /// # Shapes
    /// - `rows`: `[rows, hidden_size]`
    /// - output: `[rows, vocab_size]`
    pub fn logits_of_rows(&self, rows: Tensor<2>) -> Tensor<2> {
        let logits = match &self.lm_head {
            Some(head) => head.forward(rows),
            None => kernels::linear_transposed(rows, self.embed_tokens.weight.val()),
        };
        match self.scales.logit_softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// Sum of `−log p(id)` of each row's token, in nats: `[1]`.
    ///
    /// # Shapes
    /// - `rows`: `[rows, hidden_size]`
    pub(crate) fn nll_of_rows(&self, rows: Tensor<2>, ids: &[u32]) -> Tensor<1> {
        let (weight, layout) = match &self.lm_head {
            _ if self.scales.logit_softcap.is_some() => {
                return kernels::reference::logits_nll(self.logits_of_rows(rows), ids);
            }
            Some(head) if head.lora.is_some() || head.bias.is_some() => {
                return kernels::reference::logits_nll(self.logits_of_rows(rows), ids);
            }
            Some(head) => match &head.weight {
                ProjectionWeight::Dense(weight) => (weight.val(), HeadLayout::ByInput),
                ProjectionWeight::Int8(_) => {
                    return kernels::reference::logits_nll(self.logits_of_rows(rows), ids);
                }
            },
            None => (self.embed_tokens.weight.val(), HeadLayout::ByToken),
        };
        kernels::token_nll(rows, weight, layout, ids)
    }

    /// The linear layers of the blocks with their names, such as `model.layers.0.self_attn.q_proj`.
    pub fn projections(&self) -> impl Iterator<Item = (String, &Projection)> {
        self.layers.iter().enumerate().flat_map(|(index, block)| {
            let (attention, mlp) = (&block.self_attn, &block.mlp);
            let projections = [
                &attention.q_proj,
                &attention.k_proj,
                &attention.v_proj,
                &attention.o_proj,
                &mlp.gate_proj,
                &mlp.up_proj,
                &mlp.down_proj,
            ];
            projection_names(index).into_iter().zip(projections)
        })
    }

    /// How the weights of the blocks' linear layers are held.
    pub fn weight_format(&self) -> WeightFormat {
        let is_int8 =
            |(_, projection): (String, &Projection)| matches!(projection.weight, ProjectionWeight::Int8(_));
        if self.projections().any(is_int8) {
            WeightFormat::Int8
        } else {
            WeightFormat::F32
        }
    }

    pub(crate) fn projections_mut(&mut self) -> impl Iterator<Item = (String, &mut Projection)> {
        self.layers.iter_mut().enumerate().flat_map(|(index, block)| {
            let (attention, mlp) = (&mut block.self_attn, &mut block.mlp);
            let projections = [
                &mut attention.q_proj,
                &mut attention.k_proj,
                &mut attention.v_proj,
                &mut attention.o_proj,
                &mut mlp.gate_proj,
                &mut mlp.up_proj,
                &mut mlp.down_proj,
            ];
            projection_names(index).into_iter().zip(projections)
        })
    }
}

fn projection_names(layer: usize) -> [String; 7] {
    [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    .map(|name| format!("model.layers.{layer}.{name}"))
}
