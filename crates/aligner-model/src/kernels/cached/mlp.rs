//! A layer's MLP for inference, in one operation: norm, gate, activation, output and residual.

use std::ops::Range;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::attend::Norm;
use super::forms::{FORM_ROWS, Forms};
use super::layer::{BLOCK, Input, Layer, LayerPlan, SLOTS};
use super::memory::Shared;
use super::rows::{low_pieces, low_rows, norm_rows, store_tile};
use super::sums::Rows;
use crate::kernels::buffers::Buffer;
use crate::kernels::flex::{contiguous, elements, unique};
use crate::kernels::mlp::{Gate, MlpInputs, activate};
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
    let work = Work {
        rows,
        x: Shared::new(x),
        normed: Shared::new(&mut normed),
        inner: Shared::new(&mut inner),
        low: low.each_mut().map(|low| Shared::new(low)),
        norm,
        layers: &layers,
        forms: [Forms::new(&layers[..2], rows), Forms::new(&layers[2..], rows)],
        activation: plan.activation,
        residual: plan.residual,
    };
    work.run();
}

struct Work<'a> {
    rows: usize,
    /// The input; in the last phase, the output.
    x: Shared<'a, f32>,
    /// The normed input, where there is a norm.
    normed: Shared<'a, f32>,
    /// `[rows, inner]`
    inner: Shared<'a, f32>,
    /// `x A` of each layer.
    low: [Shared<'a, f32>; 3],
    norm: Norm<'a>,
    layers: &'a [Layer<'a>; 3],
    /// Those of the normed input and of what is between the layers.
    forms: [Forms<'a>; 2],
    activation: Gate,
    residual: bool,
}

impl Work<'_> {
    fn run(&self) {
        let [forms, forms_behind] = &self.forms;
        let normed = if self.norm.is_some() {
            self.rows.div_ceil(FORM_ROWS)
        } else {
            forms.pieces()
        };
        let before = low_pieces(&self.layers[..2], self.rows);
        let behind = low_pieces(&self.layers[2..], self.rows);
        let gates: Vec<Range<usize>> = self.layers[0].pieces(self.rows).collect();
        let outputs: Vec<Range<usize>> = self.layers[2].pieces(self.rows).collect();
        let between = behind.len() + forms_behind.pieces();
        let pieces = [normed, before.len(), gates.len(), between, outputs.len()];
        team::run(&pieces, |phase, piece| {
            // SAFETY: a phase reads what those before it wrote; within one, pieces write different rows, or different columns
            // of a layer's output, and the output takes the place of the input when nobody reads that any more.
            unsafe {
                match phase {
                    0 => {
                        norm_rows(self.x, self.norm, self.normed, self.layers[0].input, piece);
                        if piece < forms.pieces() {
                            forms.make(self.source(0), piece);
                        }
                    }
                    1 => self.low(before[piece].clone()),
                    2 => self.gate(gates[piece].clone()),
                    3 if piece < behind.len() => self.low((2, behind[piece].1.clone())),
                    3 => forms_behind.make(self.source(2), piece - behind.len()),
                    _ => self.down(outputs[piece].clone()),
                }
            }
        });
    }

    /// Where the rows lie that a layer multiplies.
    fn source(&self, layer: usize) -> Shared<'_, f32> {
        match layer {
            2 => self.inner,
            _ if self.norm.is_some() => self.normed,
            _ => self.x,
        }
    }

    /// What a layer multiplies.
    ///
    /// # Safety
    /// The phase that writes it has ended.
    unsafe fn input(&self, layer: usize) -> Input<'_> {
        let (memory, low) = (self.source(layer), &self.low[layer]);
        // SAFETY: the caller's promise.
        let (x, low) = unsafe { (memory.read(0..memory.len()), low.read(0..low.len())) };
        Input {
            rows: Rows {
                x,
                stride: self.layers[layer].input,
            },
            count: self.rows,
            first: 0,
            low,
            forms: &self.forms[usize::from(layer == 2)],
        }
    }

    /// # Safety
    /// As [`input`](Self::input), and nobody else writes these rows.
    unsafe fn low(&self, (layer, rows): (usize, Range<usize>)) {
        // SAFETY: the caller's promise.
        unsafe { low_rows(&self.layers[layer], self.source(layer), self.low[layer], rows) };
    }

    /// Gate and up of some panels, and what the activation makes of them.
    ///
    /// # Safety
    /// As [`input`](Self::input), and nobody else writes these columns.
    unsafe fn gate(&self, panels: Range<usize>) {
        let [gate, up, _] = self.layers;
        let [mut gates, mut gated] = [0; 2].map(|_| Buffer::take(self.rows.min(BLOCK) * WIDTH));
        let [gates, gated] = [&mut gates, &mut gated].map(|tile| tile.as_chunks_mut::<WIDTH>().0);
        // SAFETY: the caller's promise.
        let (of_gate, of_up) = unsafe { (self.input(0), self.input(1)) };
        for first in (0..self.rows).step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(self.rows);
            let (gates, gated) = (&mut gates[..rows.len()], &mut gated[..rows.len()]);
            for panel in panels.clone() {
                let only = panel..panel + 1;
                let of_gate = of_gate.of_rows(rows.clone(), gate.rank());
                gate.compute(of_gate, only.clone(), |_, at, tile| {
                    gates[at..at + tile.len()].copy_from_slice(tile);
                });
                let of_up = of_up.of_rows(rows.clone(), up.rank());
                up.compute(of_up, only, |_, at, tile| {
                    let gate = gates[at..at + tile.len()].as_flattened();
                    let gated = gated[at..at + tile.len()].as_flattened_mut();
                    activate(self.activation, gate, tile.as_flattened(), gated);
                });
                // SAFETY: the caller's promise.
                unsafe { store_tile(self.inner, gate, (panel, first), gated, false) };
            }
        }
    }

    /// # Safety
    /// As [`gate`](Self::gate), and nobody reads the input.
    unsafe fn down(&self, panels: Range<usize>) {
        let down = &self.layers[2];
        // SAFETY: the caller's promise.
        unsafe {
            let input = self.input(2);
            down.compute(input, panels, |panel, first, tile| {
                store_tile(self.x, down, (panel, first), tile, self.residual);
            });
        }
    }
}
