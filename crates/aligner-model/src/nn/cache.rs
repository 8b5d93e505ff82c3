//! The key/value cache: preallocated, written in place, and cut back by length.

use burn::tensor::{Device, Tensor};

/// Keys and values of the tokens a decoder has seen, for every layer.
///
/// Memory is reserved once for `capacity` tokens; [`truncate`](KvCache::truncate) forgets tokens without touching it, so
/// that a rejected draft costs nothing.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
}

/// One layer's part of a [`KvCache`].
#[derive(Debug, Clone)]
pub struct LayerCache {
    /// `[batch, kv_heads, capacity, head_dim]`
    keys: Tensor<4>,
    /// `[batch, kv_heads, capacity, head_dim]`
    values: Tensor<4>,
}

impl KvCache {
    /// An empty cache for `shape = [batch, kv_heads, capacity, head_dim]` in each of `layers`.
    pub fn new(layers: usize, shape: [usize; 4], device: &Device) -> Self {
        let layer = || LayerCache {
            keys: Tensor::zeros(shape, device),
            values: Tensor::zeros(shape, device),
        };
        Self {
            layers: (0..layers).map(|_| layer()).collect(),
            len: 0,
            capacity: shape[2],
        }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes reserved on the device.
    pub fn bytes(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| layer.keys.shape().num_elements() * 2 * size_of::<f32>())
            .sum()
    }

    /// Keeps the first `len` tokens; does nothing when fewer are held.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(crate) fn layers_mut(&mut self) -> impl Iterator<Item = &mut LayerCache> {
        self.layers.iter_mut()
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

impl LayerCache {
    /// Writes `keys` and `values` at `start` and returns everything up to their end.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[batch, kv_heads, tokens, head_dim]`
    /// - output, twice: `[batch, kv_heads, start + tokens, head_dim]`
    pub(crate) fn append(
        &mut self,
        start: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        (
            write(&mut self.keys, start, keys),
            write(&mut self.values, start, values),
        )
    }
}

fn write(store: &mut Tensor<4>, start: usize, new: Tensor<4>) -> Tensor<4> {
    let [batch, heads, tokens, width] = new.dims();
    let end = start + tokens;
    store.inplace(|store| store.slice_assign([0..batch, 0..heads, start..end, 0..width], new));
    store.clone().narrow(2, 0, end)
}
