//! The compositions that the fused operations must equal.

use burn::tensor::{
    Bool, DType, Device, Int, Tensor,
    activation::{silu, softmax},
};

use super::{AdamWStep, AttentionSettings};

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

/// `silu(gate) · up`, element by element.
///
/// # Shapes
/// - `gate`, `up`, output: the same, any
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}

/// [`causal_attention`](super::causal_attention) of Burn's own operations; all scores exist at once.
///
/// # Shapes
/// - `query`: `[batch, tokens, heads · head_dim]`
/// - `key`, `value`: `[batch, tokens, kv_heads · head_dim]`
/// - `cos`, `sin`: `[tokens, rotary_dim / 2]`
/// - output: as `query`
pub fn causal_attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    (cos, sin): (Tensor<2>, Tensor<2>),
    settings: AttentionSettings,
) -> Tensor<3> {
    let heads = settings.heads;
    let hidden = causal_mask((0, query.dims()[1]), settings.window, &query.device());
    let turn = |x| rotate(x, cos.clone(), sin.clone());
    let query = turn(split_heads(query, heads.heads));
    let key = turn(split_heads(key, heads.kv_heads));
    merge_heads(attention(
        query,
        key,
        split_heads(value, heads.kv_heads),
        hidden,
        settings,
    ))
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
