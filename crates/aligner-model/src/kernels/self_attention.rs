//! A layer's attention in one operation: norm, projections, rotation, attention, output and residual.
//!
//! What is kept for the backward pass is the input, queries, keys and values, and the attention's output, or the input alone.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::attention::{self, Angles, AttentionSettings, Note};
use super::buffers::Buffer;
use super::flex::{contiguous, copied, elements, tensor};
use super::linear::{Linear, LinearPlan, SLOTS, Weights, input_gradient};
use super::panels::{Form, Grid, OwnBlock, Panels, copy_rows};
use super::precision::Precision;
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
    /// What the factors of products are rounded to.
    pub precision: Precision,
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
    norm: Option<(&'a [f32], f32)>,
    query: Weights<'a>,
    key: Weights<'a>,
    value: Weights<'a>,
    output: Weights<'a>,
    angles: &'a Angles,
    grid: Grid,
    plan: &'a SelfAttentionPlan,
}

/// What lies between the projections, `[tokens, …]`.
#[derive(Debug, Clone)]
struct Inner {
    query: Buffer,
    key: Buffer,
    value: Buffer,
    /// The attention's output.
    context: Buffer,
    /// Logarithms of the softmaxes' denominators, `[heads, tokens]`.
    notes: Vec<Note>,
}

impl<'a> Work<'a> {
    fn new(inputs: &'a Inputs, angles: &'a Angles, plan: &'a SelfAttentionPlan) -> Self {
        let form = Form::of(plan.settings.precision);
        let linear = |index: usize| Weights::of(&inputs[2 + index * SLOTS..], &plan.linears[index], form);
        let x = elements(inputs[0].as_ref()).unwrap_or_default();
        let query = linear(0);
        Self {
            x,
            norm: elements(inputs[1].as_ref()).map(|weight| (weight, plan.epsilon)),
            grid: Grid::new(x.len() / query.input.max(1)),
            query,
            key: linear(1),
            value: linear(2),
            output: linear(3),
            angles,
            plan,
        }
    }

    fn normed(&self) -> Panels {
        let (mut normed, width) = (Panels::new(&self.grid, self.query.input), self.query.input);
        normed.fill(|index, block| {
            let rows = self.grid.block(index);
            let x = &self.x[rows.start * width..rows.end * width];
            rms_norm::forward_panels(x, width, self.norm, block);
        });
        normed
    }

    fn attention<'b>(&'b self, [query, key, value]: [&'b [f32]; 3]) -> attention::Work<'b> {
        attention::Work {
            query,
            key,
            value,
            angles: self.angles.elements(),
            sequences: &self.plan.sequences,
            settings: self.plan.settings.attention,
            form: self.query.form,
        }
    }

    fn inner(&self, normed: &Panels) -> Inner {
        let layers = [&self.query, &self.key, &self.value];
        let packed = layers.map(Weights::forward);
        let [mut query, mut key, mut value] =
            layers.map(|layer| Buffer::take(self.grid.rows() * layer.output));
        let split = |rows, layer: &Weights<'_>| self.grid.split_rows(rows, layer.output);
        let blocks = (
            split(&mut query, &self.query),
            split(&mut key, &self.key),
            split(&mut value, &self.value),
        );
        blocks
            .into_par_iter()
            .enumerate()
            .for_each(|(index, (query, key, value))| {
                let normed = normed.block(index).over_columns(self.query.form);
                for ((layer, packed), out) in layers.iter().zip(&packed).zip([query, key, value]) {
                    packed.project(normed.block(), (out, layer.output), false);
                }
            });
        let work = self.attention([&query, &key, &value]);
        let (mut context, mut notes) = (Buffer::take(query.len()), vec![Note::default(); work.notes()]);
        attention::forward(&work, &mut context, &mut notes);
        Inner {
            query,
            key,
            value,
            context,
            notes,
        }
    }

    fn forward(&self) -> (FloatTensor<Flex>, Inner) {
        let inner = self.inner(&self.normed());
        let (rows, width) = (self.grid.rows(), self.output.output);
        let residual = self.plan.settings.residual;
        let mut out = match residual {
            true => copied(self.x),
            false => vec![0.0; rows * width],
        };
        let packed = self.output.forward();
        let context = self.output.input;
        let blocks = self.grid.split_rows(&mut out, width);
        blocks.into_par_iter().enumerate().for_each(|(index, out)| {
            let range = self.grid.block(index);
            let mut block = OwnBlock::new(range.len(), context);
            copy_rows(
                &inner.context[range.start * context..range.end * context],
                context,
                block.memory(),
            );
            let block = block.over_columns(self.output.form);
            packed.project(block.block(), (out, width), residual);
        });
        (tensor(out, [rows, width].into()), inner)
    }

    /// Gradients of all slots that are `wanted`.
    fn backward(
        &self,
        kept: Option<Inner>,
        dy: &[f32],
        wanted: &[bool; INPUTS],
    ) -> [Option<Vec<f32>>; INPUTS] {
        let normed = self.normed();
        let inner = kept.unwrap_or_else(|| self.inner(&normed));
        let slots = |index: usize| &wanted[2 + index * SLOTS..][..SLOTS];

        let (context_gradient, of_output) = {
            let dy = Panels::from_rows(&self.grid, dy, self.output.output);
            let mut gradient = Buffer::take(inner.context.len());
            let low = input_gradient(&self.grid, &[(&self.output, &dy)], Some(&mut gradient));
            let context = Panels::from_rows(&self.grid, &inner.context, self.output.input);
            (
                gradient,
                self.output.gradients(&context, &dy, low[0].as_ref(), slots(3)),
            )
        };
        let parts = [&*inner.query, &inner.key, &inner.value];
        let mut gradients = parts.map(|part| Buffer::take(part.len()));
        let given = attention::Given {
            out: &inner.context,
            notes: &inner.notes,
            dy: &context_gradient,
        };
        attention::backward(
            &self.attention(parts),
            given,
            gradients.each_mut().map(|part| &mut **part),
        );
        drop((inner, context_gradient));

        let layers = [&self.query, &self.key, &self.value];
        let gradients: Vec<Panels> = layers
            .iter()
            .zip(&gradients)
            .map(|(layer, rows)| Panels::from_rows(&self.grid, rows, layer.output))
            .collect();
        let below = wanted[0] || wanted[1];
        let mut gradient = Buffer::take(if below { self.x.len() } else { 0 });
        let parts: Vec<_> = layers.into_iter().zip(&gradients).collect();
        let low = input_gradient(&self.grid, &parts, below.then_some(&mut *gradient));
        let residual = self.plan.settings.residual.then_some(dy);
        let of_input = rms_norm::input_gradients(self.x, self.norm, below.then_some(&*gradient), residual);
        let linears = parts
            .iter()
            .zip(&low)
            .enumerate()
            .flat_map(|(index, ((layer, dy), low))| layer.gradients(&normed, dy, low.as_ref(), slots(index)));
        let mut all = of_input.into_iter().chain(linears).chain(of_output);
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
