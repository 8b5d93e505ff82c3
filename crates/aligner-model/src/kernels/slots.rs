//! Operations with many inputs of which some are optional, such as a whole half of a layer.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{NodeGuard, Ops};
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType, Flex, TensorMetadata, tensor::FloatTensor,
};
use burn::tensor::Tensor;

use super::flex::tensor;

/// Any number of tensors as one input of a backend extension, which the derive macro has no form for.
pub struct Row<B: Backend>(pub(super) Vec<FloatTensor<B>>);

impl<B: Backend> ExtensionType<B> for Row<B> {
    type Target = Row<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let map = |tensor| DispatchTensor {
            kind: map_kind(BackendTensor::Float(tensor)),
            autodiff,
        };
        Row(self.0.into_iter().map(map).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Row(target
            .0
            .into_iter()
            .map(|tensor| unwrap_kind(tensor).float())
            .collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let disabled = DispatchAutodiffContext::Disabled;
        target
            .0
            .iter()
            .fold(disabled, |context, tensor| context.merge(tensor.autodiff))
    }
}

/// Tensors in numbered slots, on their way into a backend extension, which takes those that are there in a [`Row`].
#[derive(Default)]
pub(super) struct Slots {
    tensors: Vec<FloatTensor<Dispatch>>,
    present: u32,
    next: u32,
}

/// Which slots are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present(u32);

impl Slots {
    /// Fills the next slot, or leaves it empty.
    pub fn push<const D: usize>(&mut self, tensor: Option<Tensor<D>>) {
        if let Some(tensor) = tensor {
            self.present |= 1 << self.next;
            self.tensors.push(tensor.into_dispatch());
        }
        self.next += 1;
    }

    pub fn into_parts(self) -> (Row<Dispatch>, Present) {
        (Row(self.tensors), Present(self.present))
    }
}

impl Present {
    /// The tensors in their slots.
    pub(super) fn place<T, const N: usize>(self, tensors: Vec<T>) -> [Option<T>; N] {
        let mut tensors = tensors.into_iter();
        std::array::from_fn(|slot| {
            let filled = self.0 & (1 << slot) != 0;
            if filled { tensors.next() } else { None }
        })
    }

    pub(super) fn has(self, slot: usize) -> bool {
        self.0 & (1 << slot) != 0
    }
}

/// The graph's nodes of all slots; an empty slot has the node of slot 0, for which nothing is registered in its name.
///
/// # Panics
/// When slot 0 is empty: every operation has its input there.
#[expect(
    clippy::expect_used,
    reason = "slot 0 is the input, which is no option in any operation's signature"
)]
pub(super) fn nodes<C: CheckpointStrategy, const N: usize>(
    slots: &[Option<FloatTensor<Autodiff<Flex, C>>>; N],
) -> [NodeGuard; N] {
    let first = slots[0].as_ref().expect("the input");
    std::array::from_fn(|slot| slots[slot].as_ref().unwrap_or(first).node())
}

/// The nodes whose gradients are asked for.
pub(super) fn gradient_nodes<S, const N: usize>(ops: &Ops<S, N>, present: Present) -> [Option<NodeId>; N] {
    std::array::from_fn(|slot| {
        let node = ops.parents[slot].as_ref().filter(|_| present.has(slot))?;
        Some(node.id)
    })
}

/// Hands gradients over, each in the shape of its input.
pub(super) fn register_all<const N: usize>(
    grads: &mut Gradients,
    nodes: [Option<NodeId>; N],
    gradients: [Option<Vec<f32>>; N],
    inputs: &[Option<FloatTensor<Flex>>; N],
) {
    for ((node, gradient), input) in nodes.into_iter().zip(gradients).zip(inputs) {
        if let (Some(node), Some(gradient), Some(input)) = (node, gradient, input) {
            grads.register::<Flex>(node, tensor(gradient, input.shape()));
        }
    }
}
