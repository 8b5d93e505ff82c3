//! Plain slices in and out of Flex tensors.

use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::{Shape, TensorData};
use rayon::prelude::*;

/// Elements of one unit of parallel work: large enough to hide the hand-over, small enough to share out.
pub(super) const PIECE: usize = 1 << 14;

/// Runs `read` on the tensor's elements in row-major order, copying only when they lie otherwise.
pub(super) fn with_slice<R>(tensor: &FloatTensor<Flex>, read: impl FnOnce(&[f32]) -> R) -> R {
    match tensor.as_slice::<f32>() {
        Some(slice) => read(slice),
        None => {
            let contiguous = tensor.to_contiguous();
            read(contiguous.as_slice::<f32>().unwrap_or_default())
        }
    }
}

/// A tensor of these elements.
pub(super) fn tensor(values: Vec<f32>, shape: Shape) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(values, shape))
}

/// The tensor's elements for writing: its own memory when nobody shares it, a copy otherwise.
pub(super) fn unique(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
    if tensor.is_contiguous()
        && tensor
            .as_slice::<f32>()
            .is_some_and(|s| s.len() * 4 == tensor.bytes().len())
    {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// A copy made by all threads.
pub(super) fn copied(values: &[f32]) -> Vec<f32> {
    values.par_iter().with_min_len(PIECE).copied().collect()
}

/// The tensor, copied when its elements do not lie in row-major order.
pub(super) fn contiguous(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
    if tensor.as_slice::<f32>().is_some() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// Elements of a [`contiguous`] tensor.
pub(super) fn elements(tensor: Option<&FloatTensor<Flex>>) -> Option<&[f32]> {
    tensor?.as_slice::<f32>()
}
