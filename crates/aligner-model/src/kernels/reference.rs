//! The compositions that the fused operations must equal.

use burn::tensor::{
    Bool, DType, Device, Int, Tensor,
    activation::{gelu_approximate, log_softmax, silu, softmax},
};

use super::{
    AdamWStep, AttentionSettings, CacheMut, CachedAttentionInputs, CachedAttentionSettings, CachedSequence,
    Gate, HeadLayout, MlpInputs, MlpSettings, Norm, QuantizedWeight, SelfAttentionInputs,
    SelfAttentionSettings, Sequences,
};

/// See [`super::embedding`].
pub fn embedding(weight: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    burn::tensor::module::embedding(weight, ids.unsqueeze::<2>()).squeeze_dim(0)
}

/// `x / sqrt(mean(x²) + epsilon) · weight` over the last dimension, in f32 whatever the input.
///
/// # Shapes
/// - `x`: `[..., width]`, `weight`: `[width]`
/// - output: as `x`
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let root = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    (x / root).cast(dtype) * weight.unsqueeze()
}

/// `x · weight`, of the f32 weight that a rounded one stands for; activations are not rounded.
///
/// # Shapes
/// - `x`: `[rows, input]`
/// - output: `[rows, output]`
pub fn quantized_linear(x: Tensor<2>, weight: &QuantizedWeight) -> Tensor<2> {
    let weight = weight.tensor(&x.device());
    x.matmul(weight)
}

/// `silu(gate) · up`, element by element.
///
/// # Shapes
/// - `gate`, `up`, output: the same, any
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}

/// `x + down(activation(gate(norm(x))) · up(norm(x)))`.
///
/// # Shapes
/// - `x`, output: `[tokens, hidden]`
pub fn mlp(x: Tensor<2>, inputs: MlpInputs, settings: MlpSettings) -> Tensor<2> {
    let normed = through(inputs.norm, x.clone());
    let (gate, up) = (inputs.gate.forward(normed.clone()), inputs.up.forward(normed));
    let inner = match settings.activation {
        Gate::Silu => swiglu(gate, up),
        Gate::GeluTanh => gelu_approximate(gate) * up,
    };
    let out = inputs.down.forward(inner);
    if settings.residual { x + out } else { out }
}

fn through(norm: Option<Norm>, x: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(Norm { weight, epsilon }) => rms_norm(x, weight, epsilon),
        None => x,
    }
}

/// `x + output(attention(…))`, see [`self_attention`](super::self_attention).
///
/// # Shapes
/// - `x`, output: `[tokens, hidden]`
pub fn self_attention(
    x: Tensor<2>,
    inputs: SelfAttentionInputs,
    sequences: &Sequences,
    settings: SelfAttentionSettings,
) -> Tensor<2> {
    let normed = through(inputs.norm, x.clone());
    let context = super::causal_attention(
        inputs.query.forward(normed.clone()),
        inputs.key.forward(normed.clone()),
        inputs.value.forward(normed),
        inputs.rotation,
        sequences,
        settings.attention,
    );
    let out = inputs.output.forward(context);
    if settings.residual { x + out } else { out }
}

/// `x + output(attention(…))` behind caches, see [`cached_attention`](super::cached_attention); one sequence after the other.
///
/// # Shapes
/// - `x`, output: `[rows, hidden]`
///
/// # Panics
/// When a cache is not made of tensors, or has no room for the new tokens.
#[expect(clippy::panic, reason = "the caller chose the kind of cache for this device")]
pub fn cached_attention(
    x: Tensor<2>,
    inputs: CachedAttentionInputs,
    sequences: Vec<CachedSequence<'_>>,
    settings: CachedAttentionSettings,
) -> Tensor<2> {
    let heads = settings.attention.heads;
    let normed = through(inputs.norm, x.clone());
    let query = through_rows(inputs.query_norm, inputs.query.forward(normed.clone()));
    let key = through_rows(inputs.key_norm, inputs.key.forward(normed.clone()));
    let value = inputs.value.forward(normed);
    let (cos, sin) = inputs.rotation;
    let mut row = 0;
    let mut contexts = Vec::with_capacity(sequences.len());
    for CachedSequence { tokens, start, cache } in sequences {
        let CacheMut::Tensors { keys, values } = cache else {
            panic!("a cache of pages where the operation that knows them does not run");
        };
        let rows = |x: &Tensor<2>| x.clone().narrow(0, row, tokens);
        let split = |x: &Tensor<2>, heads| split_heads(rows(x).unsqueeze(), heads);
        let turn = |x| rotate(x, rows(&cos), rows(&sin));
        write(keys, start, turn(split(&key, heads.kv_heads)));
        write(values, start, split(&value, heads.kv_heads));
        let end = start + tokens;
        let context = attention(
            turn(split(&query, heads.heads)),
            keys.clone().narrow(2, 0, end),
            values.clone().narrow(2, 0, end),
            causal_mask((start, tokens), settings.attention.window, &x.device()),
            settings.attention,
        );
        contexts.push(merge_heads(context).squeeze_dim::<2>(0));
        row += tokens;
    }
    assert_eq!(x.dims()[0], row, "rows of the sequences");
    let out = inputs.output.forward(Tensor::cat(contexts, 0));
    if settings.residual { x + out } else { out }
}

/// Puts `new` at positions `start ..` of a cache.
fn write(store: &mut Tensor<4>, start: usize, new: Tensor<4>) {
    let [batch, heads, tokens, width] = new.dims();
    store.inplace(|store| store.slice_assign([0..batch, 0..heads, start..start + tokens, 0..width], new));
}

/// A norm of as many elements as its weight has, of which a row may hold several.
fn through_rows(norm: Option<Norm>, x: Tensor<2>) -> Tensor<2> {
    let Some(Norm { weight, epsilon }) = norm else {
        return x;
    };
    let ([rows, width], [norm_width]) = (x.dims(), weight.dims());
    let x = x.reshape([rows * width / norm_width, norm_width]);
    rms_norm(x, weight, epsilon).reshape([rows, width])
}

/// [`causal_attention`](super::causal_attention) of Burn's own operations; all scores of a sequence exist at once.
///
/// Sequences of different lengths are padded on the right for it: a causal model's tokens never see what comes after them.
///
/// # Shapes
/// - `query`: `[tokens, heads · head_dim]`
/// - `key`, `value`: `[tokens, kv_heads · head_dim]`
/// - `cos`, `sin`: `[longest, rotary_dim / 2]`
/// - output: as `query`
pub fn causal_attention(
    query: Tensor<2>,
    key: Tensor<2>,
    value: Tensor<2>,
    (cos, sin): (Tensor<2>, Tensor<2>),
    sequences: &Sequences,
    settings: AttentionSettings,
) -> Tensor<2> {
    let heads = settings.heads;
    let [tokens, width] = query.dims();
    let (batch, longest) = (sequences.lengths().len(), sequences.longest());
    let device = query.device();
    let hidden = causal_mask((0, longest), settings.window, &device);
    let padding = Padding::of(sequences, &device);
    let turn = |x| rotate(x, cos.clone(), sin.clone());
    let split = |x: Tensor<2>, heads| {
        let width = x.dims()[1];
        split_heads(padding.put(x).reshape([batch, longest, width]), heads)
    };
    let context = attention(
        turn(split(query, heads.heads)),
        turn(split(key, heads.kv_heads)),
        split(value, heads.kv_heads),
        hidden,
        settings,
    );
    let context = merge_heads(context).reshape([batch * longest, width]);
    padding.take(context).reshape([tokens, width])
}

/// Between packed rows and rows padded to the longest sequence; nothing where all are of one length.
struct Padding {
    rows: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
}

impl Padding {
    fn of(sequences: &Sequences, device: &Device) -> Self {
        let longest = sequences.longest();
        if sequences.lengths().iter().all(|&length| length == longest) {
            return Self { rows: None };
        }
        let (mut padded, mut packed) = (Vec::<i32>::new(), Vec::<i32>::new());
        for (index, (start, length)) in sequences.spans().enumerate() {
            // What padding holds does not matter: the sequence's last row is as good as any.
            padded.extend((0..longest).map(|at| (start + at.min(length.saturating_sub(1))) as i32));
            packed.extend((0..length).map(|at| (index * longest + at) as i32));
        }
        let upload = |rows: Vec<i32>| Tensor::from_ints(rows.as_slice(), device);
        Self {
            rows: Some((upload(padded), upload(packed))),
        }
    }

    fn put(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.rows {
            Some((padded, _)) => x.select(0, padded.clone()),
            None => x,
        }
    }

    fn take(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.rows {
            Some((_, packed)) => x.select(0, packed.clone()),
            None => x,
        }
    }
}

/// `−Σ log softmax(rows · weight)[id]`, see [`token_nll`](super::token_nll).
///
/// # Shapes
/// - `rows`: `[targets, hidden]`, `weight`: `[vocab, hidden]` or `[hidden, vocab]`
/// - output: `[1]`
pub fn token_nll(rows: Tensor<2>, weight: Tensor<2>, layout: HeadLayout, ids: &[u32]) -> Tensor<1> {
    let logits = match layout {
        HeadLayout::ByToken => rows.matmul(weight.transpose()),
        HeadLayout::ByInput => rows.matmul(weight),
    };
    logits_nll(logits, ids)
}

/// `−Σ log softmax(logits)[id]`.
///
/// # Shapes
/// - `logits`: `[targets, vocab]`
/// - output: `[1]`
pub fn logits_nll(logits: Tensor<2>, ids: &[u32]) -> Tensor<1> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &logits.device()).unsqueeze_dim::<2>(1);
    -log_softmax(logits, 1).gather(1, ids).sum()
}

/// # Shapes
/// - `x`: `[batch, tokens, heads · head_dim]`
/// - output: `[batch, heads, tokens, head_dim]`
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}

/// Undoes [`split_heads`].
pub fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, tokens, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, tokens, heads * width])
}

/// Turns each pair `(x[i], x[i + rotary_dim / 2])` by its position's angle; dimensions behind `rotary_dim` stay.
///
/// # Shapes
/// - `x`: `[batch, heads, tokens, head_dim]`
/// - `cos`, `sin`: `[tokens, rotary_dim / 2]`
/// - output: as `x`
pub fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let (width, half) = (x.dims()[3], cos.dims()[1]);
    let (cos, sin) = (cos.unsqueeze::<4>(), sin.unsqueeze::<4>());
    let (first, second) = (x.clone().narrow(3, 0, half), x.clone().narrow(3, half, half));
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos + first * sin;
    let mut parts = vec![turned_first, turned_second];
    if width > 2 * half {
        parts.push(x.narrow(3, 2 * half, width - 2 * half));
    }
    Tensor::cat(parts, 3)
}

/// Which keys are hidden from which of `tokens` new queries behind `start` old ones; `None` when none is.
///
/// # Shapes
/// - output: `[tokens, start + tokens]`, true where a key comes after the query or `window` or more positions before it
pub fn causal_mask(
    (start, tokens): (usize, usize),
    window: Option<usize>,
    device: &Device,
) -> Option<Tensor<2, Bool>> {
    let end = start + tokens;
    let positions = |range: std::ops::Range<usize>| {
        Tensor::<1, Int>::arange(range.start as i64..range.end as i64, device)
    };
    let window = window.filter(|&window| window < end);
    (tokens > 1 || window.is_some()).then(|| {
        let key = positions(0..end).unsqueeze_dim::<2>(0).expand([tokens, end]);
        let query = positions(start..end).unsqueeze_dim::<2>(1).expand([tokens, end]);
        let later = key.clone().greater(query.clone());
        match window {
            Some(window) => later.bool_or((key + window as i64).lower_equal(query)),
            None => later,
        }
    })
}

/// `softmax(softcap(scale · q kᵀ)) v` with each key and value head serving `heads / kv_heads` consecutive query heads.
///
/// The queries of a group are laid out as extra rows of one product, so that keys and values are never repeated.
///
/// # Shapes
/// - `query`: `[batch, heads, tokens, head_dim]`
/// - `key`, `value`: `[batch, kv_heads, context, head_dim]`
/// - `hidden`: `[tokens, context]`
/// - output: as `query`
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    hidden: Option<Tensor<2, Bool>>,
    settings: AttentionSettings,
) -> Tensor<4> {
    let [batch, heads, tokens, width] = query.dims();
    let [_, kv_heads, context, _] = key.dims();
    let group = heads / kv_heads;
    let query = (query * settings.scale).reshape([batch, kv_heads, group * tokens, width]);
    let shape = [batch, kv_heads, group, tokens, context];
    let mut scores = query.matmul(key.swap_dims(2, 3)).reshape(shape);
    if let Some(cap) = settings.softcap {
        scores = (scores / cap).tanh() * cap;
    }
    if let Some(hidden) = hidden {
        scores = scores.mask_fill(hidden.unsqueeze::<5>().expand(shape), f32::NEG_INFINITY);
    }
    let weights = softmax(scores, 4).reshape([batch, kv_heads, group * tokens, context]);
    weights.matmul(value).reshape([batch, heads, tokens, width])
}

/// One step of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2), in PyTorch's order of operations.
///
/// # Shapes
/// - all four tensors and all three results: the same
pub fn adamw(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    step: AdamWStep,
) -> [Tensor<1>; 3] {
    let gradient = gradient * step.gradient_scale;
    let parameter = parameter * (1.0 - step.lr * step.weight_decay);
    let m = m * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let v = v * step.beta2 + gradient.square() * (1.0 - step.beta2);
    let denominator = (v.clone() / step.bias_correction2()).sqrt() + step.epsilon;
    let parameter = parameter - m.clone() / denominator * (step.lr / step.bias_correction1());
    [parameter, m, v]
}

/// Sum of the squares of all elements: `[1]`.
pub fn squared_norm<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    x.square().sum()
}
