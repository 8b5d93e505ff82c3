//! The key/value cache: written in place, and cut back by length.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor};

use crate::kernels::{CacheMut, CachedSequence, Heads, KvFormat, Pages};

/// Keys and values of the tokens a decoder has seen, for every layer.
///
/// On the CPU memory comes page by page as tokens do; on other devices it is reserved at once for `capacity` tokens.
/// [`truncate`](KvCache::truncate) forgets tokens without touching it, so that a rejected draft costs nothing. A copy shares the
/// pages of the original until one of the two writes to them.
#[derive(Debug, Clone)]
pub struct KvCache {
    /// By sequence, then by layer.
    sequences: Vec<Vec<LayerCache>>,
    len: usize,
    capacity: usize,
}

/// What one layer has of one sequence.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a few dozen of them a sequence")]
enum LayerCache {
    Pages(Arc<Mutex<Pages>>),
    /// Each `[1, kv_heads, capacity, head_dim]`.
    Tensors {
        keys: Tensor<4>,
        values: Tensor<4>,
    },
}

/// How many layers a cache is for, and what each of them keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheShape {
    pub layers: usize,
    pub heads: Heads,
    /// How pages hold them; tensors of a device are f32.
    pub format: KvFormat,
    /// Tokens that fit.
    pub capacity: usize,
}

impl CacheShape {
    /// Bytes that a cache of pages takes for a sequence of `capacity` tokens; one of tensors takes no more.
    pub fn bytes(&self) -> usize {
        self.layers * Pages::bytes_of(self.heads, self.format, self.capacity)
    }
}

impl KvCache {
    /// An empty cache for `batch` sequences in memory of the CPU, as its operations write it.
    pub(crate) fn of_pages(batch: usize, shape: CacheShape) -> Self {
        Self::new(batch, shape, || {
            LayerCache::Pages(Arc::new(Mutex::new(Pages::new(shape.heads, shape.format))))
        })
    }

    /// An empty cache for `batch` sequences in tensors of a device.
    pub(crate) fn of_tensors(batch: usize, shape: CacheShape, device: &Device) -> Self {
        let Heads {
            kv_heads, head_dim, ..
        } = shape.heads;
        let zeros = || Tensor::zeros([1, kv_heads, shape.capacity, head_dim], device);
        Self::new(batch, shape, || LayerCache::Tensors {
            keys: zeros(),
            values: zeros(),
        })
    }

    fn new(batch: usize, shape: CacheShape, layer: impl Fn() -> LayerCache) -> Self {
        let sequence = || (0..shape.layers).map(|_| layer()).collect();
        Self {
            sequences: (0..batch).map(|_| sequence()).collect(),
            len: 0,
            capacity: shape.capacity,
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

    /// Bytes that keys and values take now; pages that copies share are counted with each of them.
    pub fn bytes(&self) -> usize {
        self.sequences.iter().flatten().map(LayerCache::bytes).sum()
    }

    /// Keeps the first `len` tokens; does nothing when fewer are held.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// A cache for up to `capacity` tokens that begins with the first `len` of this one, so that what many prompts begin with is
    /// computed once; `None` on a device whose memory was reserved for another capacity.
    ///
    /// Pages are shared until one of the two writes to them.
    #[must_use]
    pub fn fork(&self, len: usize, capacity: usize) -> Option<Self> {
        let len = self.len.min(len).min(capacity);
        let fork = |layer: &LayerCache| match layer {
            LayerCache::Tensors { .. } if capacity != self.capacity => None,
            layer => Some(layer.first(len)),
        };
        let sequence = |layers: &Vec<LayerCache>| layers.iter().map(fork).collect();
        Some(Self {
            sequences: self.sequences.iter().map(sequence).collect::<Option<_>>()?,
            len,
            capacity,
        })
    }

    /// Number of sequences.
    pub(crate) fn batch(&self) -> usize {
        self.sequences.len()
    }

    /// What a layer has of each sequence, which get `tokens` more.
    pub(crate) fn layer_mut(
        &mut self,
        layer: usize,
        tokens: usize,
    ) -> impl Iterator<Item = CachedSequence<'_>> {
        let start = self.len;
        self.sequences.iter_mut().map(move |layers| CachedSequence {
            tokens,
            start,
            cache: layers[layer].as_mut(),
        })
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

impl LayerCache {
    fn as_mut(&mut self) -> CacheMut<'_> {
        match self {
            Self::Pages(pages) => CacheMut::Pages(pages),
            Self::Tensors { keys, values } => CacheMut::Tensors { keys, values },
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Pages(pages) => pages.lock().unwrap_or_else(PoisonError::into_inner).bytes(),
            Self::Tensors { keys, .. } => keys.shape().num_elements() * 2 * size_of::<f32>(),
        }
    }

    /// The first `len` tokens at least.
    fn first(&self, len: usize) -> Self {
        match self {
            Self::Pages(pages) => {
                let pages = pages.lock().unwrap_or_else(PoisonError::into_inner);
                Self::Pages(Arc::new(Mutex::new(pages.of_first(len))))
            }
            Self::Tensors { keys, values } => Self::Tensors {
                keys: keys.clone(),
                values: values.clone(),
            },
        }
    }
}

impl Clone for LayerCache {
    fn clone(&self) -> Self {
        self.first(usize::MAX)
    }
}
