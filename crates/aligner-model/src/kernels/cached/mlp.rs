//! A layer's MLP for inference, in one operation: norm, gate, activation, output and residual.

use std::ops::Range;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::half::Half;
use super::layer::{BLOCK, Layer, LayerPlan, SLOTS};
use super::memory::Shared;
use super::rows::store_tile;
use crate::kernels::buffers::Buffer;
use crate::kernels::flex::{contiguous, elements, unique};
use crate::kernels::mlp::{Gate, MlpInputs, activate_in_place};
use crate::kernels::panels::WIDTH;
use crate::kernels::slots::{Present, Row as Tensors, Slots};
use crate::kernels::{self, reference, runs_fused, team};

/// `x + down(activation(gate(norm(x))) · up(norm(x)))`, or without `x`; each row is computed as if it were alone.
///
/// # Shapes
/// - `x`: `[rows, hidden]`
/// - output: as `x`
pub fn inference_mlp(x: Tensor<2>, inputs: MlpInputs, activation: Gate, residual: bool) -> Tensor<2> {
    let layers = [&inputs.gate, &inputs.up, &inputs.down];
    if !runs_fused(&x)
        || x.device().is_autodiff()
        || !layers.into_iter().all(|layer| layer.weight.runs_cached())
    {
        let settings = kernels::MlpSettings {
            activation,
            residual,
            recompute: false,
            precision: kernels::Precision::F32,
        };
        return reference::mlp(x, inputs, settings);
    }
    let mut slots = Slots::default();
    slots.push(Some(x));
    let (norm, epsilon) = kernels::Norm::into_parts(inputs.norm);
    slots.push(norm);
    let layers = [inputs.gate, inputs.up, inputs.down];
    let layers = layers.map(|layer| LayerPlan::new(layer, &mut slots));
    let (tensors, present) = slots.into_parts();
    let plan = InferenceMlpPlan {
        present,
        epsilon,
        layers,
        activation,
        residual,
    };
    Tensor::from_dispatch(<Dispatch as InferenceMlpOps>::inference_mlp(tensors, plan))
}

/// How the tensors of [`InferenceMlpOps::inference_mlp`] are to be read.
#[derive(Debug, Clone)]
pub struct InferenceMlpPlan {
    present: Present,
    epsilon: f32,
    layers: [LayerPlan; 3],
    activation: Gate,
    residual: bool,
}

/// The operation as an extension of a backend.
#[backend_extension(Flex)]
pub trait InferenceMlpOps: Backend {
    /// See [`inference_mlp`].
    fn inference_mlp(#[extension_type] tensors: Tensors<Self>, plan: InferenceMlpPlan) -> FloatTensor<Self>;
}

/// Input, norm, and three linear layers.
const INPUTS: usize = 2 + 3 * SLOTS;

impl InferenceMlpOps for Flex {
    fn inference_mlp(tensors: Tensors<Self>, plan: InferenceMlpPlan) -> FloatTensor<Self> {
        let mut inputs: [Option<FloatTensor<Flex>>; INPUTS] = plan.present.place(tensors.0);
        let Some(x) = inputs[0].take() else {
            unreachable!("slot 0 is the input, which is no option in the operation's signature")
        };
        let inputs = inputs.map(|input| input.map(contiguous));
        // The output takes the input's place.
        let mut x = unique(x);
        compute(x.storage_mut::<f32>(), &inputs, &plan);
        x
    }
}

fn compute(x: &mut [f32], inputs: &[Option<FloatTensor<Flex>>; INPUTS], plan: &InferenceMlpPlan) {
    let layers: [Layer<'_>; 3] =
        std::array::from_fn(|index| Layer::of(&inputs[2 + index * SLOTS..], &plan.layers[index]));
    let [gate, up, down] = &layers;
    assert_eq!((gate.input, gate.output), (up.input, up.output), "gate and up");
    assert_eq!((down.input, down.output), (gate.output, gate.input), "down");
    let norm = elements(inputs[1].as_ref()).map(|weight| (weight, plan.epsilon));
    let rows = x.len() / gate.input.max(1);
    let mut normed = Buffer::take(if norm.is_some() { x.len() } else { 0 });
    let mut inner = Buffer::take(rows * gate.output);
    let mut low = layers.each_ref().map(|layer| Buffer::take(rows * layer.rank()));
    let half = Half {
        rows,
        x: Shared::new(x),
        normed: Shared::new(&mut normed),
        inner: Shared::new(&mut inner),
        norm,
        layers: &layers,
        low: low.iter_mut().map(|low| Shared::new(low)).collect(),
        forms: Half::forms(&layers, rows),
    };
    let work = Work {
        half,
        activation: plan.activation,
        residual: plan.residual,
    };
    work.run();
}

struct Work<'a> {
    half: Half<'a>,
    activation: Gate,
    residual: bool,
}

impl Work<'_> {
    fn run(&self) {
        let half = &self.half;
        let [before, behind] = half.low_pieces();
        let gates: Vec<Range<usize>> = half.layers[0].pieces(half.rows).collect();
        let outputs: Vec<Range<usize>> = half.layers[2].pieces(half.rows).collect();
        let between = behind.len() + half.forms[1].pieces();
        let pieces = [half.pieces(), before.len(), gates.len(), between, outputs.len()];
        team::run(&pieces, |phase, piece| {
            // SAFETY: a phase reads what those before it wrote; within one, pieces write different rows, or different columns
            // of a layer's output, and the output takes the place of the input when nobody reads that any more.
            unsafe {
                match phase {
                    0 => half.begin(piece),
                    1 => half.low(before[piece].clone()),
                    2 => self.gate(gates[piece].clone()),
                    3 => half.between(&behind, piece),
                    _ => self.down(outputs[piece].clone()),
                }
            }
        });
    }

    /// Gate and up of some panels, and what the activation makes of them.
    ///
    /// # Safety
    /// As [`Half::input`], and nobody else writes these columns.
    unsafe fn gate(&self, panels: Range<usize>) {
        let (all, gate, up) = (self.half.rows, &self.half.layers[0], &self.half.layers[1]);
        let mut gates = Buffer::take(all.min(BLOCK) * WIDTH);
        let (gates, _) = gates.as_chunks_mut::<WIDTH>();
        // SAFETY: the caller's promise.
        let (of_gate, of_up) = unsafe { (self.half.input(0), self.half.input(1)) };
        for first in (0..all).step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(all);
            let of_gate = of_gate.of_rows(rows.clone(), gate.rank());
            let of_up = of_up.of_rows(rows.clone(), up.rank());
            for panel in panels.clone() {
                let only = panel..panel + 1;
                gate.compute(of_gate, only.clone(), |_, at, tile| {
                    gates[at..at + tile.len()].copy_from_slice(tile);
                });
                up.compute(of_up, only, |_, at, tile| {
                    let gates = gates[at..at + tile.len()].as_flattened();
                    activate_in_place(self.activation, gates, tile.as_flattened_mut());
                    // SAFETY: the caller's promise.
                    unsafe { store_tile(self.half.inner, gate, (panel, first + at), tile, false) };
                });
            }
        }
    }

    /// # Safety
    /// As [`gate`](Self::gate), and nobody reads the input.
    unsafe fn down(&self, panels: Range<usize>) {
        let down = &self.half.layers[2];
        // SAFETY: the caller's promise.
        unsafe {
            let input = self.half.input(2);
            down.compute(input, panels, |panel, first, tile| {
                store_tile(self.half.x, down, (panel, first), tile, self.residual);
            });
        }
    }
}
