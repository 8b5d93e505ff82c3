//! A layer's MLP in one operation: norm, gate, activation, output and residual, forward and backward.
//!
//! What is kept for the backward pass is the input and the two inner projections, or the input alone; the rest is computed
//! again. All of it lies in memory that the next layer uses too.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::buffers::Buffer;
use super::flex::{PIECE, contiguous, copied, elements, tensor};
use super::linear::{Linear, LinearPlan, SLOTS, Weights};
use super::math::{sigmoid, vectorized};
use super::matmul::Update;
use super::slots::{Present, Row, Slots, gradient_nodes, nodes, register_all};
use super::{Norm, reference, rms_norm, runs_fused};

/// The activation of a gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `x · sigmoid(x)`
    Silu,
    /// `x · sigmoid(√(8/π) · (x + 0.044715 x³))`, which is GELU's approximation by tanh.
    GeluTanh,
}

/// The inputs of [`mlp`].
#[derive(Debug, Clone)]
pub struct MlpInputs {
    /// Norm of the input, where there is one before the MLP.
    pub norm: Option<Norm>,
    /// `[hidden, inner]`
    pub gate: Linear,
    /// `[hidden, inner]`
    pub up: Linear,
    /// `[inner, hidden]`
    pub down: Linear,
}

/// What an operation does besides its inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpSettings {
    /// The activation.
    pub activation: Gate,
    /// Whether the input is added to the output.
    pub residual: bool,
    /// Keep the input alone for the backward pass, and compute the inner projections again.
    pub recompute: bool,
}

/// `x + down(activation(gate(norm(x))) · up(norm(x)))`
///
/// # Shapes
/// - `x`: `[tokens, hidden]`
/// - output: as `x`
pub fn mlp(x: Tensor<2>, inputs: MlpInputs, settings: MlpSettings) -> Tensor<2> {
    if !runs_fused(&x) || !inputs.gate.weight.runs_fused() {
        return reference::mlp(x, inputs, settings);
    }
    let mut slots = Slots::default();
    slots.push(Some(x));
    let (norm, epsilon) = Norm::into_parts(inputs.norm);
    slots.push(norm);
    let linears = [inputs.gate, inputs.up, inputs.down].map(|linear| linear.into_slots(&mut slots));
    let (tensors, present) = slots.into_parts();
    let plan = MlpPlan {
        present,
        epsilon,
        linears,
        settings,
    };
    Tensor::from_dispatch(<Dispatch as MlpOps>::mlp(tensors, plan))
}

/// How the tensors of [`MlpOps::mlp`] are to be read.
#[derive(Debug, Clone)]
pub struct MlpPlan {
    present: Present,
    epsilon: f32,
    linears: [LinearPlan; 3],
    settings: MlpSettings,
}

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait MlpOps: Backend {
    /// See [`mlp`].
    fn mlp(#[extension_type] tensors: Row<Self>, plan: MlpPlan) -> FloatTensor<Self>;
}

/// Input, norm, and three linear layers.
const INPUTS: usize = 2 + 3 * SLOTS;

type Inputs = [Option<FloatTensor<Flex>>; INPUTS];

impl MlpOps for Flex {
    fn mlp(tensors: Row<Self>, plan: MlpPlan) -> FloatTensor<Self> {
        let inputs: Inputs = plan.present.place(tensors.0);
        let inputs = inputs.map(|input| input.map(contiguous));
        Work::new(&inputs, &plan).forward().0
    }
}

/// The operation over slices.
struct Work<'a> {
    x: &'a [f32],
    norm: Option<&'a [f32]>,
    gate: Weights<'a>,
    up: Weights<'a>,
    down: Weights<'a>,
    rows: usize,
    plan: &'a MlpPlan,
}

/// The inner projections, `[tokens, inner]`.
#[derive(Debug, Clone)]
struct Inner {
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl<'a> Work<'a> {
    fn new(inputs: &'a Inputs, plan: &'a MlpPlan) -> Self {
        let linear = |index: usize| Weights::of(&inputs[2 + index * SLOTS..], &plan.linears[index]);
        let x = elements(inputs[0].as_ref()).unwrap_or_default();
        let gate = linear(0);
        Self {
            x,
            norm: elements(inputs[1].as_ref()),
            gate,
            up: linear(1),
            down: linear(2),
            rows: x.len() / gate.input.max(1),
            plan,
        }
    }

    fn normed(&self) -> Option<Buffer> {
        let weight = self.norm?;
        let mut out = Buffer::take(self.x.len());
        rms_norm::forward_rows(self.x, weight, self.plan.epsilon, &mut out);
        Some(out)
    }

    fn inner(&self, normed: &[f32]) -> Inner {
        Inner {
            gate: self.gate.new_forward(normed, self.rows),
            up: self.up.new_forward(normed, self.rows),
        }
    }

    fn forward(&self) -> (FloatTensor<Flex>, Inner) {
        let normed = self.normed();
        let inner = self.inner(normed.as_deref().unwrap_or(self.x));
        drop(normed);
        let mut gated = Buffer::take(inner.gate.len());
        activate(self.plan.settings.activation, &inner.gate, &inner.up, &mut gated);
        let shape = [self.rows, self.down.output];
        let out = if self.plan.settings.residual {
            let mut out = copied(self.x);
            self.down.add_forward(&gated, self.rows, &mut out);
            out
        } else {
            self.down.new_forward(&gated, self.rows)
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
        let Inner { mut gate, mut up } = kept.unwrap_or_else(|| self.inner(normed));
        let activation = self.plan.settings.activation;
        let slots = |index: usize| &wanted[2 + index * SLOTS..][..SLOTS];

        let mut inner_gradient = Buffer::take(gate.len());
        let of_down = {
            let mut gated = Buffer::take(gate.len());
            activate(activation, &gate, &up, &mut gated);
            let dx = Some((&mut *inner_gradient, Update::Set));
            self.down.backward(&gated, dy, rows, dx, slots(2))
        };
        activate_backward(activation, &inner_gradient, &mut gate, &mut up);
        drop(inner_gradient);

        let below = wanted[0] || wanted[1];
        let mut gradient = Buffer::take(if below { self.x.len() } else { 0 });
        let dx = below.then_some((&mut *gradient, Update::Set));
        let of_gate = self.gate.backward(normed, &gate, rows, dx, slots(0));
        let dx = below.then_some((&mut *gradient, Update::Add(1.0)));
        let of_up = self.up.backward(normed, &up, rows, dx, slots(1));
        let residual = self.plan.settings.residual.then_some(dy);
        let norm = self.norm.map(|weight| (weight, self.plan.epsilon));
        let of_input = rms_norm::input_gradients(self.x, norm, below.then_some(&*gradient), residual);
        let mut all = of_input.into_iter().chain(of_gate).chain(of_up).chain(of_down);
        std::array::from_fn(|_| all.next().flatten())
    }
}

/// `out = activation(gate) · up`
fn activate(activation: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let pieces = (
        out.par_chunks_mut(PIECE),
        gate.par_chunks(PIECE),
        up.par_chunks(PIECE),
    );
    pieces.into_par_iter().for_each(|(out, gate, up)| {
        vectorized!((activation: Gate, out: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) -> () {
            match activation {
                Gate::Silu => for i in 0..out.len() {
                    out[i] = silu(gate[i]).0 * up[i];
                },
                Gate::GeluTanh => for i in 0..out.len() {
                    out[i] = gelu_tanh(gate[i]).0 * up[i];
                },
            }
        });
    });
}

/// Turns `gate` and `up` into their gradients, given that of their product.
fn activate_backward(activation: Gate, dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
    let pieces = (
        dy.par_chunks(PIECE),
        gate.par_chunks_mut(PIECE),
        up.par_chunks_mut(PIECE),
    );
    pieces.into_par_iter().for_each(|(dy, gate, up)| {
        vectorized!((activation: Gate, dy: &'a [f32], gate: &'a mut [f32], up: &'a mut [f32]) -> () {
            match activation {
                Gate::Silu => for i in 0..dy.len() {
                    let (value, slope) = silu(gate[i]);
                    (gate[i], up[i]) = (dy[i] * up[i] * slope, dy[i] * value);
                },
                Gate::GeluTanh => for i in 0..dy.len() {
                    let (value, slope) = gelu_tanh(gate[i]);
                    (gate[i], up[i]) = (dy[i] * up[i] * slope, dy[i] * value);
                },
            }
        });
    });
}

/// Value and slope.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// Value and slope; `tanh(z) = 2 sigmoid(2z) − 1`.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const TWICE_ROOT_2_OVER_PI: f32 = 1.595_769;
    let s = sigmoid(TWICE_ROOT_2_OVER_PI * (x + 0.044_715 * x * x * x));
    let inner = TWICE_ROOT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
    (x * s, s + x * s * (1.0 - s) * inner)
}

#[derive(Debug)]
struct MlpBackward;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    inputs: Inputs,
    kept: Option<Inner>,
    plan: MlpPlan,
}

impl Backward<Flex, INPUTS> for MlpBackward {
    type State = State;

    fn backward(self, ops: Ops<State, INPUTS>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let nodes = gradient_nodes(&ops, ops.state.plan.present);
        let State { inputs, kept, plan } = ops.state;
        let work = Work::new(&inputs, &plan);
        let gradients = work.backward(
            kept,
            elements(Some(&dy)).unwrap_or_default(),
            &nodes.map(|node| node.is_some()),
        );
        register_all(grads, nodes, gradients, &inputs);
    }
}

impl<C: CheckpointStrategy> MlpOps for Autodiff<Flex, C> {
    fn mlp(tensors: Row<Self>, plan: MlpPlan) -> FloatTensor<Self> {
        let slots: [_; INPUTS] = plan.present.place(tensors.0);
        let guards = nodes::<C, INPUTS>(&slots);
        let inputs: Inputs = slots.map(|slot| slot.map(|tensor| contiguous(tensor.into_primitive())));
        match MlpBackward.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (out, inner) = Work::new(&inputs, &plan).forward();
                let kept = (!plan.settings.recompute).then_some(inner);
                prep.finish(State { inputs, kept, plan }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Work::new(&inputs, &plan).forward().0),
        }
    }
}
