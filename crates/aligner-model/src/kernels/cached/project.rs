//! A linear layer by itself, for inference: what is not part of a larger operation, as the output projection.

use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{Shape, Tensor};

use super::forms::Forms;
use super::layer::{Input, Layer, LayerPlan, SLOTS};
use super::memory::Shared;
use super::rows::{low_pieces, low_rows, store_tile};
use super::sums::Rows;
use crate::kernels::buffers::Buffer;
use crate::kernels::flex::{contiguous, elements, tensor};
use crate::kernels::slots::{Present, Row as Tensors, Slots};
use crate::kernels::{Linear, runs_fused, team};

/// `x W + b + scale · x A B`; each row is computed as if it were alone.
///
/// # Shapes
/// - `x`: `[rows, input]`
/// - output: `[rows, output]`
pub fn linear(x: Tensor<2>, layer: Linear) -> Tensor<2> {
    if !takes(&x) || !layer.weight.runs_cached() {
        return layer.forward(x);
    }
    let mut slots = Slots::default();
    slots.push(Some(x));
    let layer = LayerPlan::new(layer, &mut slots);
    let (tensors, present) = slots.into_parts();
    Tensor::from_dispatch(<Dispatch as ProjectOps>::project(
        tensors,
        ProjectPlan { present, layer },
    ))
}

/// `x · weightᵀ`, of a weight that is stored the other way round, as an embedding that is the output projection as well; each
/// row is computed as if it were alone.
///
/// # Shapes
/// - `x`: `[rows, input]`, `weight`: `[output, input]`
/// - output: `[rows, output]`
pub fn linear_transposed(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if !takes(&x) || !takes(&weight) {
        return x.matmul(weight.transpose());
    }
    Tensor::from_dispatch(<Dispatch as ProjectOps>::project_transposed(
        x.into_dispatch(),
        weight.into_dispatch(),
    ))
}

/// Whether an operation without gradients takes this tensor.
fn takes(tensor: &Tensor<2>) -> bool {
    runs_fused(tensor) && !tensor.device().is_autodiff()
}

/// How the tensors of [`ProjectOps::project`] are to be read.
#[derive(Debug, Clone)]
pub struct ProjectPlan {
    present: Present,
    layer: LayerPlan,
}

/// The operations as an extension of a backend.
#[backend_extension(Flex)]
pub trait ProjectOps: Backend {
    /// See [`project`].
    fn project(#[extension_type] tensors: Tensors<Self>, plan: ProjectPlan) -> FloatTensor<Self>;
    /// See [`project_transposed`].
    fn project_transposed(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl ProjectOps for Flex {
    fn project(tensors: Tensors<Self>, plan: ProjectPlan) -> FloatTensor<Self> {
        let inputs: [Option<FloatTensor<Flex>>; 1 + SLOTS] = plan.present.place(tensors.0);
        let inputs = inputs.map(|input| input.map(contiguous));
        let layer = Layer::of(&inputs[1..], &plan.layer);
        output(elements(inputs[0].as_ref()).unwrap_or_default(), &layer)
    }

    fn project_transposed(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let dims = [weight.shape()[1], weight.shape()[0]];
        let (x, weight) = (contiguous(x), contiguous(weight));
        let slice = |tensor| elements(Some(tensor)).unwrap_or_default();
        output(slice(&x), &Layer::by_output(slice(&weight), dims))
    }
}

fn output(x: &[f32], layer: &Layer<'_>) -> FloatTensor<Flex> {
    let rows = x.len() / layer.input.max(1);
    let mut low = Buffer::take(rows * layer.rank());
    let mut out: Vec<f32> = Vec::with_capacity(rows * layer.output);
    let adapted = low_pieces(std::slice::from_ref(layer), rows);
    let pieces: Vec<_> = layer.pieces(rows).collect();
    let (source, low) = (Shared::reading(x), Shared::new(&mut low));
    let target = Shared::room(&mut out, rows * layer.output);
    let forms = Forms::new(std::slice::from_ref(layer), rows);
    team::run(&[adapted.len() + forms.pieces(), pieces.len()], |phase, piece| {
        // SAFETY: the second phase reads what the first wrote; within one, pieces write different rows or columns.
        unsafe {
            if phase == 0 {
                match adapted.get(piece) {
                    Some((_, rows)) => low_rows(layer, source, low, rows.clone()),
                    None => forms.make(source, piece - adapted.len()),
                }
                return;
            }
            let input = Input {
                rows: Rows {
                    x,
                    stride: layer.input,
                },
                count: rows,
                first: 0,
                low: low.read(0..low.len()),
                forms: &forms,
            };
            layer.compute(input, pieces[piece].clone(), |panel, first, tile| {
                store_tile(target, layer, (panel, first), tile, false);
            });
        }
    });
    // SAFETY: the pieces are all columns of all rows, and each has written its own.
    unsafe { out.set_len(rows * layer.output) };
    tensor(out, Shape::new([rows, layer.output]))
}
