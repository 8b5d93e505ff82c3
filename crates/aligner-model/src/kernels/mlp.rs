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
use super::flex::{contiguous, copied, elements, tensor};
use super::linear::{self, Linear, LinearPlan, SLOTS, Weights};
use super::math::{sigmoid, vectorized};
use super::panels::{
    Block, Form, Grid, OwnBlock, Panels, WIDTH, blocks_or_none, copy_rows, fetch_rows, multiply, panels_mut,
    store_panel, store_rows,
};
use super::precision::Precision;
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
    /// What the factors of products are rounded to.
    pub precision: Precision,
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
    norm: Option<(&'a [f32], f32)>,
    gate: Weights<'a>,
    up: Weights<'a>,
    down: Weights<'a>,
    grid: Grid,
    plan: &'a MlpPlan,
}

/// The inner projections, `[tokens, inner]`.
#[derive(Debug, Clone)]
struct Inner {
    gate: Panels,
    up: Panels,
}

/// Memory of one block of tokens in the forward pass.
struct ForwardMemory<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
    out: &'a mut [f32],
}

/// Memory of one block of tokens in the backward pass; `gate` and `up` become their gradients.
struct BackwardMemory<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
    gated: &'a mut [f32],
    normed: &'a mut [f32],
    dy: &'a mut [f32],
    /// Gradient of the norm's output, as rows; empty when nobody asks for it.
    below: &'a mut [f32],
    /// Gradients of `x A` of the three layers, where there are adapters.
    low: [Option<&'a mut [f32]>; 3],
}

impl<'a> Work<'a> {
    fn new(inputs: &'a Inputs, plan: &'a MlpPlan) -> Self {
        let form = Form::of(plan.settings.precision);
        let linear = |index: usize| Weights::of(&inputs[2 + index * SLOTS..], &plan.linears[index], form);
        let x = elements(inputs[0].as_ref()).unwrap_or_default();
        let gate = linear(0);
        Self {
            x,
            norm: elements(inputs[1].as_ref()).map(|weight| (weight, plan.epsilon)),
            grid: Grid::new(x.len() / gate.input.max(1)),
            gate,
            up: linear(1),
            down: linear(2),
            plan,
        }
    }

    /// The rows of a block, through the norm.
    fn normed(&self, index: usize, block: &mut [f32]) {
        let (rows, width) = (self.grid.block(index), self.gate.input);
        let x = &self.x[rows.start * width..rows.end * width];
        rms_norm::forward_panels(x, width, self.norm, block);
    }

    fn new_inner(&self) -> Inner {
        let [gate, up] = [0; 2].map(|_| Panels::new(&self.grid, self.gate.output));
        Inner { gate, up }
    }

    fn forward(&self) -> (FloatTensor<Flex>, Inner) {
        let mut inner = self.new_inner();
        let width = self.down.output;
        let rows = self.grid.rows();
        let mut out = match self.plan.settings.residual {
            true => copied(self.x),
            false => vec![0.0; rows * width],
        };
        let packed = [&self.gate, &self.up, &self.down].map(Weights::forward);
        let blocks = (
            inner.gate.blocks_mut(),
            inner.up.blocks_mut(),
            self.grid.split_rows(&mut out, width),
        );
        blocks
            .into_par_iter()
            .enumerate()
            .for_each(|(index, (gate, up, out))| {
                self.forward_block(index, &packed, ForwardMemory { gate, up, out })
            });
        (tensor(out, [rows, width].into()), inner)
    }

    fn forward_block(
        &self,
        index: usize,
        [gate, up, down]: &[linear::Forward<'_>; 3],
        memory: ForwardMemory<'_>,
    ) {
        let (rows, inner) = (self.grid.block(index).len(), self.gate.output);
        let mut normed = OwnBlock::new(rows, self.gate.input);
        self.normed(index, normed.memory());
        let mut gated = OwnBlock::new(rows, inner);
        self.project(
            normed.over_columns(self.gate.form).block(),
            [gate, up],
            [&mut *memory.gate, &mut *memory.up],
            Some(gated.memory()),
        );
        let gated = gated.over_columns(self.gate.form);
        let low = down.low(gated.block());
        let terms = down.terms(gated.block(), low.as_ref());
        for panel in 0..down.panels() {
            down.panel(&terms, panel, |row, tile| {
                store_rows(
                    memory.out,
                    self.down.output,
                    (row, panel),
                    tile,
                    self.plan.settings.residual,
                );
            });
        }
    }

    /// Gate and up of a block, which is as products read it, and what the activation makes of them, panel by panel while they are in the cache.
    fn project(
        &self,
        normed: Block<'_>,
        [gate_layer, up_layer]: [&linear::Forward<'_>; 2],
        [gate, up]: [&mut [f32]; 2],
        gated: Option<&mut [f32]>,
    ) {
        let (rows, inner) = (normed.rows(), self.gate.output);
        let (low_gate, low_up) = (gate_layer.low(normed), up_layer.low(normed));
        let of_gate = gate_layer.terms(normed, low_gate.as_ref());
        let of_up = up_layer.terms(normed, low_up.as_ref());
        let mut gated = gated.map(|gated| panels_mut(gated, rows, inner));
        let panels = panels_mut(gate, rows, inner).zip(panels_mut(up, rows, inner));
        for (panel, (gate, up)) in panels.enumerate() {
            gate_layer.panel(&of_gate, panel, |row, tile| store_panel(gate, row, tile));
            up_layer.panel(&of_up, panel, |row, tile| store_panel(up, row, tile));
            if let Some(gated) = gated.as_mut().and_then(Iterator::next) {
                activate(self.plan.settings.activation, gate, up, gated);
            }
        }
    }

    /// Gradients of all slots that are `wanted`.
    fn backward(
        &self,
        kept: Option<Inner>,
        dy: &[f32],
        wanted: &[bool; INPUTS],
    ) -> [Option<Vec<f32>>; INPUTS] {
        let recomputed = kept
            .is_none()
            .then(|| [&self.gate, &self.up].map(Weights::forward));
        let Inner { mut gate, mut up } = kept.unwrap_or_else(|| self.new_inner());
        let below = wanted[0] || wanted[1];
        let layers = [&self.gate, &self.up, &self.down];
        let panels = |columns: usize| Panels::new(&self.grid, columns);
        let (mut gated, mut normed) = (panels(self.gate.output), panels(self.gate.input));
        let mut dy_panels = panels(self.down.output);
        let mut gradient = Buffer::take(if below { self.x.len() } else { 0 });
        let mut low = layers.map(|layer| layer.low_gradient(&self.grid));
        let packed = layers.map(Weights::backward);

        let [low_gate, low_up, low_down] = low.each_mut().map(|low| blocks_or_none(low.as_mut(), &self.grid));
        let below_width = if below { self.gate.input } else { 0 };
        let blocks = (
            (
                gate.blocks_mut(),
                up.blocks_mut(),
                gated.blocks_mut(),
                normed.blocks_mut(),
            ),
            (
                dy_panels.blocks_mut(),
                self.grid.split_rows(&mut gradient, below_width),
            ),
            (low_gate, low_up, low_down),
        );
        blocks
            .into_par_iter()
            .enumerate()
            .for_each(|(index, (inner, outer, low))| {
                let ((gate, up, gated, normed), (dy_block, below)) = (inner, outer);
                let low = [low.0, low.1, low.2];
                let memory = BackwardMemory {
                    gate,
                    up,
                    gated,
                    normed,
                    dy: dy_block,
                    below,
                    low,
                };
                self.backward_block(index, dy, (recomputed.as_ref(), &packed), memory);
            });

        let slots = |index: usize| &wanted[2 + index * SLOTS..][..SLOTS];
        let of_gate = self.gate.gradients(&normed, &gate, low[0].as_ref(), slots(0));
        let of_up = self.up.gradients(&normed, &up, low[1].as_ref(), slots(1));
        let of_down = self.down.gradients(&gated, &dy_panels, low[2].as_ref(), slots(2));
        let residual = self.plan.settings.residual.then_some(dy);
        let of_input = rms_norm::input_gradients(self.x, self.norm, below.then_some(&*gradient), residual);
        let mut all = of_input.into_iter().chain(of_gate).chain(of_up).chain(of_down);
        std::array::from_fn(|_| all.next().flatten())
    }

    fn backward_block(
        &self,
        index: usize,
        dy: &[f32],
        (forward, [of_gate, of_up, of_down]): (Option<&[linear::Forward<'_>; 2]>, &[linear::Backward; 3]),
        memory: BackwardMemory<'_>,
    ) {
        let range = self.grid.block(index);
        let (rows, width, inner) = (range.len(), self.down.output, self.gate.output);
        let BackwardMemory {
            gate,
            up,
            gated,
            normed,
            dy: dy_block,
            below,
            low,
        } = memory;
        let [low_gate, low_up, low_down] = low;
        self.normed(index, normed);
        if let Some([gate_layer, up_layer]) = forward {
            let normed = Block::new(normed, rows, self.gate.input).over_columns(self.gate.form);
            self.project(
                normed.block(),
                [gate_layer, up_layer],
                [&mut *gate, &mut *up],
                None,
            );
        }
        copy_rows(&dy[range.start * width..range.end * width], width, dy_block);
        let dy = Block::new(dy_block, rows, width).over_columns(self.down.form);
        let low_down = of_down.low_gradient(dy.block(), low_down);
        let terms = of_down.terms(dy.block(), low_down.as_ref());
        let mut gradient = Buffer::take(rows * WIDTH);
        let panels = panels_mut(gate, rows, inner).zip(panels_mut(up, rows, inner));
        for (panel, ((gate, up), gated)) in panels.zip(panels_mut(gated, rows, inner)).enumerate() {
            multiply(&terms, panel, |row, tile| {
                store_panel(&mut gradient, row, tile);
                fetch_rows(gate, row, tile.len());
                fetch_rows(up, row, tile.len());
            });
            activate_backward(self.plan.settings.activation, &gradient, [gate, up, gated]);
        }
        let [gate, up] = [gate, up].map(|part| Block::new(part, rows, inner).over_columns(self.gate.form));
        let (low_gate, low_up) = (
            of_gate.low_gradient(gate.block(), low_gate),
            of_up.low_gradient(up.block(), low_up),
        );
        if below.is_empty() {
            return;
        }
        for (layer, terms, add) in [
            (of_gate, of_gate.terms(gate.block(), low_gate.as_ref()), false),
            (of_up, of_up.terms(up.block(), low_up.as_ref()), true),
        ] {
            for panel in 0..layer.panels() {
                multiply(&terms, panel, |row, tile| {
                    store_rows(below, self.gate.input, (row, panel), tile, add);
                });
            }
        }
    }
}

/// `out = activation(gate) · up`
pub(super) fn activate(activation: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
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
}

/// [`activate`], in `up`'s place.
pub(super) fn activate_in_place(activation: Gate, gate: &[f32], up: &mut [f32]) {
    vectorized!((activation: Gate, up: &'a mut [f32], gate: &'a [f32]) -> () {
        match activation {
            Gate::Silu => for (up, &gate) in up.iter_mut().zip(gate) {
                *up *= silu(gate).0;
            },
            Gate::GeluTanh => for (up, &gate) in up.iter_mut().zip(gate) {
                *up *= gelu_tanh(gate).0;
            },
        }
    });
}

/// Turns `gate` and `up` into their gradients, given that of their product, and gives the product too.
fn activate_backward(activation: Gate, dy: &[f32], [gate, up, gated]: [&mut [f32]; 3]) {
    vectorized!((
        activation: Gate, dy: &'a [f32], gate: &'a mut [f32], up: &'a mut [f32], gated: &'a mut [f32]
    ) -> () {
        match activation {
            Gate::Silu => for i in 0..dy.len() {
                let (value, slope) = silu(gate[i]);
                gated[i] = value * up[i];
                (gate[i], up[i]) = (dy[i] * up[i] * slope, dy[i] * value);
            },
            Gate::GeluTanh => for i in 0..dy.len() {
                let (value, slope) = gelu_tanh(gate[i]);
                gated[i] = value * up[i];
                (gate[i], up[i]) = (dy[i] * up[i] * slope, dy[i] * value);
            },
        }
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
