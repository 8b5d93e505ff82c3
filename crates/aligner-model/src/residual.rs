//! The residual stream: what a decoder holds of a token behind each layer.

use burn::tensor::{Int, Tensor};

use crate::decoder::{CachedRun, CausalDecoder, caches_of, kept_rows};

impl CausalDecoder {
    /// The residual stream of the tokens that are kept, as it goes into the first layer and as it comes out of each: what the
    /// final norm and the output projection have not seen yet. The caches are filled as [`forward_cached`](Self::forward_cached)
    /// fills them, and a control vector is in it from its layer on.
    ///
    /// # Shapes
    /// - output: `layers + 1` of `[kept tokens of all runs, hidden_size]`, in order
    ///
    /// # Panics
    /// As [`forward_cached`](Self::forward_cached), and when no token is kept.
    pub fn residual_stream(&self, runs: &mut [CachedRun<'_>]) -> Vec<Tensor<2>> {
        let device = self.norm.weight.val().device();
        let ids: Vec<i32> = runs.iter().flat_map(|run| run.ids).map(|&id| id as i32).collect();
        let rows = kept_rows(runs);
        assert!(!rows.is_empty(), "a residual stream of no token");
        let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), &device);
        let ids = Tensor::from_ints(ids.as_slice(), &device);
        let mut stream = Vec::with_capacity(self.layers.len() + 1);
        self.cached_rows(ids, &mut caches_of(runs), None, |x| {
            stream.push(x.clone().select(0, rows.clone()));
        });
        stream
    }
}
