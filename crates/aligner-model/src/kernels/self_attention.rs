//! A layer's attention in one operation: norm, projections, rotation, attention, output and residual.
//!
//! What is kept for the backward pass is the input, queries, keys and values, and the attention's output, or the input alone.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::attention::{self, Angles, AttentionSettings};
use super::buffers::Buffer;
use super::flex::{contiguous, copied, elements, tensor};
use super::linear::{Linear, LinearPlan, SLOTS, Weights};
use super::matmul::Update;
use super::sequences::Sequences;
use super::slots::{Present, Row, Slots, gradient_nodes, nodes, register_all};
use super::{Norm, reference, rms_norm, runs_fused};

/// The inputs of [`self_attention`].
#[derive(Debug, Clone)]
pub struct SelfAttentionInputs {
    /// Norm of the input, where there is one before the attention.
    pub norm: Option<Norm>,
    /// `[hidden, heads · head_dim]`
    pub query: Linear,
    /// `[hidden, kv_heads · head_dim]`
    pub key: Linear,
    /// `[hidden, kv_heads · head_dim]`
    pub value: Linear,
    /// `[heads · head_dim, hidden]`
    pub output: Linear,
    /// Cosines and sines, `[longest, rotary_dim / 2]`.
    pub rotation: (Tensor<2>, Tensor<2>),
}

/// What the operation does besides its inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelfAttentionSettings {
    /// The attention.
    pub attention: AttentionSettings,
    /// Whether the input is added to the output.
    pub residual: bool,
    /// Keep the input alone for the backward pass, and compute the rest again.
    pub recompute: bool,
}

/// `x + output(attention(query(norm(x)), key(norm(x)), value(norm(x))))`, with rotated queries and keys.
///
/// # Shapes
/// - `x`: `[tokens, hidden]`, the tokens of `sequences`
/// - output: as `x`
pub fn self_attention(
    x: Tensor<2>,
    inputs: SelfAttentionInputs,
    sequences: &Sequences,
    settings: SelfAttentionSettings,
) -> Tensor<2> {
    let softcap = settings.attention.softcap.is_some();
    if softcap || !runs_fused(&x) || !inputs.query.weight.runs_fused() {
        return reference::self_attention(x, inputs, sequences, settings);
    }
    let mut slots = Slots::default();
    slots.push(Some(x));
    let (norm, epsilon) = Norm::into_parts(inputs.norm);
    slots.push(norm);
    let linears = [inputs.query, inputs.key, inputs.value, inputs.output];
    let linears = linears.map(|linear| linear.into_slots(&mut slots));
    let (tensors, present) = slots.into_parts();
    let plan = SelfAttentionPlan {
        present,
        epsilon,
        linears,
        sequences: sequences.clone(),
        settings,
    };
    let (cos, sin) = inputs.rotation;
    Tensor::from_dispatch(<Dispatch as SelfAttentionOps>::self_attention(
        tensors,
        cos.into_dispatch(),
        sin.into_dispatch(),
        plan,
    ))
}

/// How the tensors of [`SelfAttentionOps::self_attention`] are to be read.
#[derive(Debug, Clone)]
pub struct SelfAttentionPlan {
    present: Present,
    epsilon: f32,
    linears: [LinearPlan; 4],
    sequences: Sequences,
    settings: SelfAttentionSettings,
}

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait SelfAttentionOps: Backend {
    /// See [`self_attention`].
    fn self_attention(
        #[extension_type] tensors: Row<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: SelfAttentionPlan,
    ) -> FloatTensor<Self>;
}

/// Input, norm, and four linear layers.
const INPUTS: usize = 2 + 4 * SLOTS;

type Inputs = [Option<FloatTensor<Flex>>; INPUTS];

impl SelfAttentionOps for Flex {
    fn self_attention(
        tensors: Row<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: SelfAttentionPlan,
    ) -> FloatTensor<Self> {
        let inputs: Inputs = plan.present.place(tensors.0);
        let inputs = inputs.map(|input| input.map(contiguous));
        Work::new(&inputs, &Angles::new(cos, sin), &plan).forward().0
    }
}

/// The operation over slices.
struct Work<'a> {
    x: &'a [f32],
    norm: Option<&'a [f32]>,
    query: Weights<'a>,
    key: Weights<'a>,
    value: Weights<'a>,
    output: Weights<'a>,
    angles: &'a Angles,
    rows: usize,
    plan: &'a SelfAttentionPlan,
}

/// What lies between the projections, `[tokens, …]`.
#[derive(Debug, Clone)]
struct Inner {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// The attention's output.
    context: Vec<f32>,
    /// Logarithms of the softmaxes' denominators, `[heads, tokens]`.
    log_sums: Vec<f32>,
}

impl<'a> Work<'a> {
    fn new(inputs: &'a Inputs, angles: &'a Angles, plan: &'a SelfAttentionPlan) -> Self {
        let linear = |index: usize| Weights::of(&inputs[2 + index * SLOTS..], &plan.linears[index]);
        let x = elements(inputs[0].as_ref()).unwrap_or_default();
        let query = linear(0);
        Self {
            x,
            norm: elements(inputs[1].as_ref()),
            query,
            key: linear(1),
            value: linear(2),
            output: linear(3),
            angles,
            rows: x.len() / query.input.max(1),
            plan,
        }
    }

    fn normed(&self) -> Option<Buffer> {
        let weight = self.norm?;
        let mut out = Buffer::take(self.x.len());
        rms_norm::forward_rows(self.x, weight, self.plan.epsilon, &mut out);
        Some(out)
    }

    fn attention<'b>(&'b self, [query, key, value]: [&'b [f32]; 3]) -> attention::Work<'b> {
        attention::Work {
            query,
            key,
            value,
            angles: self.angles.elements(),
            sequences: &self.plan.sequences,
            settings: self.plan.settings.attention,
        }
    }

    fn inner(&self, normed: &[f32]) -> Inner {
        let [query, key, value] =
            [&self.query, &self.key, &self.value].map(|linear| linear.new_forward(normed, self.rows));
        let work = self.attention([&query, &key, &value]);
        let (mut context, mut log_sums) = (vec![0.0; query.len()], vec![0.0; work.notes()]);
        attention::forward(&work, &mut context, &mut log_sums);
        Inner {
            query,
            key,
            value,
            context,
            log_sums,
        }
    }

    fn forward(&self) -> (FloatTensor<Flex>, Inner) {
        let normed = self.normed();
        let inner = self.inner(normed.as_deref().unwrap_or(self.x));
        drop(normed);
        let shape = [self.rows, self.output.output];
        let out = if self.plan.settings.residual {
            let mut out = copied(self.x);
            self.output.add_forward(&inner.context, self.rows, &mut out);
            out
        } else {
            self.output.new_forward(&inner.context, self.rows)
        };
        (tensor(out, shape.into()), inner)
    }

    /// Gradients of all slots that are `wanted`.
    fn backward(
        &self,
        kept: Option<Inner>,
        dy: &[f32],
        wanted: &[bool; INPUTS],
    ) -> [Option<Vec<f32>>; INPUTS] {
        let rows = self.rows;
        let normed = self.normed();
        let normed = normed.as_deref().unwrap_or(self.x);
        let inner = kept.unwrap_or_else(|| self.inner(normed));
        let slots = |index: usize| &wanted[2 + index * SLOTS..][..SLOTS];

        let mut context_gradient = Buffer::take(inner.context.len());
        let dx = Some((&mut *context_gradient, Update::Set));
        let of_output = self.output.backward(&inner.context, dy, rows, dx, slots(3));
        let parts = [&*inner.query, &inner.key, &inner.value];
        let [mut dq, mut dk, mut dv] = parts.map(|part| Buffer::take(part.len()));
        let given = attention::Given {
            out: &inner.context,
            log_sums: &inner.log_sums,
            dy: &context_gradient,
        };
        attention::backward(&self.attention(parts), given, [&mut dq, &mut dk, &mut dv]);
        drop((inner, context_gradient));

        let below = wanted[0] || wanted[1];
        let mut gradient = Buffer::take(if below { self.x.len() } else { 0 });
        let mut project = |linear: &Weights<'_>, dy: &[f32], update, index: usize| {
            let dx = below.then_some((&mut *gradient, update));
            linear.backward(normed, dy, rows, dx, slots(index))
        };
        let of_query = project(&self.query, &dq, Update::Set, 0);
        let of_key = project(&self.key, &dk, Update::Add(1.0), 1);
        let of_value = project(&self.value, &dv, Update::Add(1.0), 2);
        let residual = self.plan.settings.residual.then_some(dy);
        let norm = self.norm.map(|weight| (weight, self.plan.epsilon));
        let of_input = rms_norm::input_gradients(self.x, norm, below.then_some(&*gradient), residual);
        let linears = [of_query, of_key, of_value, of_output].into_iter().flatten();
        let mut all = of_input.into_iter().chain(linears);
        std::array::from_fn(|_| all.next().flatten())
    }
}

#[derive(Debug)]
struct SelfAttentionBackward;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    inputs: Inputs,
    angles: Angles,
    kept: Option<Inner>,
    plan: SelfAttentionPlan,
}

impl Backward<Flex, INPUTS> for SelfAttentionBackward {
    type State = State;

    fn backward(self, ops: Ops<State, INPUTS>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let nodes = gradient_nodes(&ops, ops.state.plan.present);
        let State {
            inputs,
            angles,
            kept,
            plan,
        } = ops.state;
        let wanted = nodes.map(|node| node.is_some());
        let dy = elements(Some(&dy)).unwrap_or_default();
        let gradients = Work::new(&inputs, &angles, &plan).backward(kept, dy, &wanted);
        register_all(grads, nodes, gradients, &inputs);
    }
}

impl<C: CheckpointStrategy> SelfAttentionOps for Autodiff<Flex, C> {
    fn self_attention(
        tensors: Row<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: SelfAttentionPlan,
    ) -> FloatTensor<Self> {
        let slots: [_; INPUTS] = plan.present.place(tensors.0);
        let guards = nodes::<C, INPUTS>(&slots);
        let inputs: Inputs = slots.map(|slot| slot.map(|tensor| contiguous(tensor.into_primitive())));
        let angles = Angles::new(cos.into_primitive(), sin.into_primitive());
        match SelfAttentionBackward
            .prepare::<C>(guards)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (out, inner) = Work::new(&inputs, &angles, &plan).forward();
                let kept = (!plan.settings.recompute).then_some(inner);
                let state = State {
                    inputs,
                    angles,
                    kept,
                    plan,
                };
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Work::new(&inputs, &angles, &plan).forward().0),
        }
    }
}
