//! The decoder: embedding, blocks, final norm, output projection.

mod projections;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Int, Tensor};

use crate::config::{LayerRope, ModelConfig};
use crate::error::Result;
use crate::kernels::{self, HeadLayout, Heads, KvFormat, Precision, Sequences};
use crate::nn::{
    Block, CacheShape, KvCache, Packed, Projection, ProjectionWeight, RmsNorm, RmsNormConfig, Rope, Rotation,
    Rotations, TokenEmbedding,
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
    pub embed_tokens: TokenEmbedding,
    /// The layers.
    pub layers: Vec<Block>,
    /// Final norm.
    pub norm: RmsNorm,
    /// Output projection `[hidden_size, vocab_size]`; absent when it is the embedding.
    pub lm_head: Option<Projection>,
    /// The head of a model that scores instead of writing, `[hidden_size, outputs]`.
    pub score: Option<Projection>,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    local_rope: Option<Rope>,
    #[module(skip)]
    scales: Scales,
    #[module(skip)]
    pub(crate) steering: Steering,
    #[module(skip)]
    kv_format: KvFormat,
    recompute: bool,
    #[module(skip)]
    precision: Precision,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// New tokens of one sequence, for [`CausalDecoder::forward_cached`].
#[derive(Debug)]
pub struct CachedRun<'a> {
    /// The tokens; at least one.
    pub ids: &'a [u32],
    /// The sequence's own cache, of a batch of one.
    pub cache: &'a mut KvCache,
    /// Tokens, counted from the end of `ids`, whose hidden states are wanted.
    pub keep: usize,
}

impl ModuleDisplay for CausalDecoder {}

/// The embedding's name in a file.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output projection's, where it is another weight.
pub(crate) const HEAD: &str = "lm_head.weight";

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
        Self {
            embed_tokens: TokenEmbedding::new(config.vocab_size, config.hidden_size, device),
            layers: config
                .layer_kinds
                .iter()
                .map(|&kind| Block::new(config, kind, device))
                .collect(),
            norm: RmsNormConfig::of(config, config.hidden_size).init(device),
            lm_head: (!config.tie_embeddings)
                .then(|| Projection::new(config.hidden_size, config.vocab_size, false, device)),
            score: config
                .score
                .as_ref()
                .map(|score| Projection::new(config.hidden_size, score.outputs, score.bias, device)),
            rope: Rope::new(&config.rope),
            local_rope: config.local_rope.as_ref().map(Rope::new),
            scales: Scales {
                embedding: config.embedding_scale,
                logit_softcap: config.logit_softcap,
                has_layer_without_rope: config.layer_kinds.iter().any(|kind| kind.rope == LayerRope::None),
            },
            steering: Steering::default(),
            kv_format: KvFormat::default(),
            recompute: false,
            precision: Precision::F32,
            heads: config.heads,
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
        let weight = self.norm.weight.val().inner();
        let shape = self.cache_shape(capacity);
        if kernels::runs_fused(&weight) {
            KvCache::of_pages(batch, shape)
        } else {
            KvCache::of_tensors(batch, shape, &weight.device())
        }
    }

    /// Bytes that a [cache](Self::new_cache) of one sequence takes at most when it holds `capacity` tokens.
    pub fn cache_bytes(&self, capacity: usize) -> usize {
        self.cache_shape(capacity).bytes()
    }

    fn cache_shape(&self, capacity: usize) -> CacheShape {
        CacheShape {
            layers: self.layers.len(),
            heads: Heads {
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
            },
            format: self.kv_format(),
            capacity,
        }
    }

    /// How the keys and values of [new caches](Self::new_cache) are held.
    pub fn kv_format(&self) -> KvFormat {
        match kernels::runs_fused(&self.norm.weight.val().inner()) {
            true => self.kv_format,
            false => KvFormat::F32,
        }
    }

    /// Holds the keys and values of [new caches](Self::new_cache) in this format: f32 at first. Off the CPU they stay f32.
    #[must_use]
    pub fn with_kv_format(mut self, format: KvFormat) -> Self {
        self.kv_format = format;
        self
    }

    /// Computes each layer's activations again in the backward pass instead of keeping them: a fifth more time for a fraction
    /// of the memory. Off at first.
    pub fn with_recompute(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

    /// Rounds the factors of products of [packed sequences](Self::forward_packed) and their loss, forward and backward: nothing at
    /// first. It is what the CPU's fused operations know; where a model's layers are composed of Burn's own, those are f32.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
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
        assert_eq!(cache.batch(), batch, "sequences of the cache");
        let ids = ids.reshape([batch * tokens]);
        let hidden = self.cached_rows(ids, &mut [(tokens, cache)], None, |_| ());
        hidden.reshape([batch as i64, tokens as i64, -1])
    }

    /// Runs the blocks over new tokens of several sequences, each behind its own cache, and the final norm over those that are
    /// kept: the last MLP computes those alone. Weights are read once for all of them.
    ///
    /// On the CPU a sequence gives the same hidden states, to the last bit, whatever runs beside it and however its tokens are
    /// cut into runs, as long as it has no more tokens than [`ModelConfig::cached_positions`] says.
    ///
    /// # Shapes
    /// - output: `[kept tokens of all runs, hidden_size]`, in order
    ///
    /// # Panics
    /// When there is no run, one without tokens, or one whose cache has no room for its tokens or is of a batch. All are errors of
    /// the caller, which knows the lengths.
    pub fn forward_cached(&self, runs: &mut [CachedRun<'_>]) -> Tensor<2> {
        let device = self.norm.weight.val().device();
        let ids: Vec<i32> = runs.iter().flat_map(|run| run.ids).map(|&id| id as i32).collect();
        let rows = kept_rows(runs);
        let rows = (rows.len() < ids.len()).then(|| Tensor::from_ints(rows.as_slice(), &device));
        let ids = Tensor::from_ints(ids.as_slice(), &device);
        self.cached_rows(ids, &mut caches_of(runs), rows, |_| ())
    }

    /// The tokens of all caches' sequences, as many of each as is said; where there are `rows`, those alone are returned.
    /// `observe` sees the residual stream before the first layer and behind each.
    pub(crate) fn cached_rows(
        &self,
        ids: Tensor<1, Int>,
        caches: &mut [(usize, &mut KvCache)],
        mut rows: Option<Tensor<1, Int>>,
        mut observe: impl FnMut(&Tensor<2>),
    ) -> Tensor<2> {
        let mut runs = Vec::new();
        for (tokens, cache) in &*caches {
            assert!(*tokens > 0, "a run without tokens");
            assert!(
                cache.len() + tokens <= cache.capacity(),
                "the cache holds {} tokens",
                cache.capacity()
            );
            runs.extend(std::iter::repeat_n((cache.len(), *tokens), cache.batch()));
        }
        let rotations = self.rotations(&runs, &ids.device());
        let mut x = self.scaled(self.embed_tokens.forward_rows(ids));
        observe(&x);
        for (index, block) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            let sequences = caches
                .iter_mut()
                .flat_map(|(tokens, cache)| cache.layer_mut(index, *tokens))
                .collect();
            x = block.forward_cached(x, &rotations, sequences, if last { rows.take() } else { None });
            x = self.steering.behind(index, x);
            observe(&x);
        }
        for (tokens, cache) in caches {
            cache.advance(*tokens);
        }
        // A decoder without layers.
        if let Some(rows) = rows {
            x = x.select(0, rows);
        }
        // Of a prompt's part that only fills the cache nothing is kept.
        if x.dims()[0] == 0 {
            return x;
        }
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
        mut rows: Option<Tensor<1, Int>>,
    ) -> Tensor<2> {
        let [tokens] = ids.dims();
        assert_eq!(sequences.tokens(), tokens, "tokens of the sequences");
        let packed = Packed {
            rotations: self.rotations(&[(0, sequences.longest())], &ids.device()),
            sequences: sequences.clone(),
            recompute: self.recompute,
            precision: self.precision,
        };
        let mut x = self.scaled(self.embed_tokens.forward_rows(ids));
        for (index, block) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            x = block.forward_packed(x, &packed, if last { rows.take() } else { None });
            x = self.steering.behind(index, x);
        }
        // A decoder without layers.
        if let Some(rows) = rows {
            x = x.select(0, rows);
        }
        self.norm.forward(x)
    }

    /// The rotations of runs of positions: each the first one and how many there are.
    fn rotations(&self, runs: &[(usize, usize)], device: &Device) -> Rotations {
        let none = self.scales.has_layer_without_rope;
        let tokens = runs.iter().map(|(_, tokens)| tokens).sum();
        Rotations {
            global: self.rope.rotation_of(runs, device),
            local: self
                .local_rope
                .as_ref()
                .map(|rope| rope.rotation_of(runs, device)),
            none: none.then(|| Rotation::none(tokens, device)),
        }
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
            None => self.embed_tokens.logits(rows),
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
            Some(head) => (&head.weight, HeadLayout::ByInput),
            None => (&self.embed_tokens.weight, HeadLayout::ByToken),
        };
        match weight {
            ProjectionWeight::Dense(weight) => {
                kernels::token_nll(rows, weight.val(), layout, ids, self.precision)
            }
            _ => kernels::reference::logits_nll(self.logits_of_rows(rows), ids),
        }
    }
}

/// The caches of runs, each with how many tokens it gets.
pub(crate) fn caches_of<'a>(runs: &'a mut [CachedRun<'_>]) -> Vec<(usize, &'a mut KvCache)> {
    let of_run = |run: &'a mut CachedRun<'_>| {
        assert_eq!(run.cache.batch(), 1, "sequences of a run's cache");
        (run.ids.len(), &mut *run.cache)
    };
    runs.iter_mut().map(of_run).collect()
}

/// The rows of the tokens that are kept, of those of all runs.
pub(crate) fn kept_rows(runs: &[CachedRun<'_>]) -> Vec<i32> {
    let mut end = 0;
    let of_run = |run: &CachedRun<'_>| {
        end += run.ids.len();
        end - run.keep.min(run.ids.len())..end
    };
    runs.iter().flat_map(of_run).map(|row| row as i32).collect()
}
