//! New weights, the same for the same seed on every device.

use std::path::{Path, PathBuf};

use super::{HostTensor, TensorSource, bind::nowhere};
use crate::config::{ModelConfig, QkNorm};
use crate::error::Result;

/// Gives every tensor of a configuration its initial value.
pub(super) struct RandomSource {
    config: ModelConfig,
    seed: u64,
    path: PathBuf,
}

impl RandomSource {
    pub fn new(config: &ModelConfig, seed: u64) -> Self {
        Self {
            config: config.clone(),
            seed,
            path: nowhere(),
        }
    }

    fn norm_width(&self, whole: usize) -> usize {
        match self.config.qk_norm {
            QkNorm::Whole => whole,
            QkNorm::PerHead | QkNorm::None => self.config.head_dim,
        }
    }

    /// The stored shape of a tensor by the last parts of its name.
    fn shape(&self, name: &str) -> Vec<usize> {
        let c = &self.config;
        let (queries, keys) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let mut parts = name.rsplit('.');
        let leaf = parts.next().unwrap_or_default();
        let (output, input) = match parts.next().unwrap_or_default() {
            "embed_tokens" | "lm_head" => (c.vocab_size, c.hidden_size),
            "q_proj" => (queries, c.hidden_size),
            "k_proj" | "v_proj" => (keys, c.hidden_size),
            "o_proj" => (c.hidden_size, queries),
            "gate_proj" | "up_proj" => (c.intermediate_size, c.hidden_size),
            "down_proj" => (c.hidden_size, c.intermediate_size),
            "score" => (c.score.as_ref().map_or(1, |score| score.outputs), c.hidden_size),
            "q_norm" => return vec![self.norm_width(queries)],
            "k_norm" => return vec![self.norm_width(keys)],
            _ => return vec![c.hidden_size],
        };
        if leaf == "bias" {
            vec![output]
        } else {
            vec![output, input]
        }
    }
}

impl TensorSource for RandomSource {
    fn read(&mut self, name: &str) -> Result<Option<HostTensor>> {
        let shape = self.shape(name);
        let count = shape.iter().product();
        let values = match (shape.len(), name.ends_with("bias")) {
            (1, true) => vec![0.0; count],
            // A norm that multiplies by `1 + weight` starts as the identity as well.
            (1, false) => vec![if self.config.norm_offset { 0.0 } else { 1.0 }; count],
            _ => normal(self.seed ^ name_hash(name), count, self.config.initializer_range),
        };
        Ok(Some(HostTensor { shape, values }))
    }

    fn shape_of(&self, name: &str) -> Result<Option<Vec<usize>>> {
        Ok(Some(self.shape(name)))
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// `count` values uniform in `-bound..bound`, of the tensor's own stream.
pub(crate) fn uniform(seed: u64, name: &str, count: usize, bound: f64) -> Vec<f32> {
    let mut next = stream(seed ^ name_hash(name));
    (0..count)
        .map(|_| ((next() * 2.0 - 1.0) * bound) as f32)
        .collect()
}

/// A new matrix, normal with a deviation, of the tensor's own stream.
pub(crate) fn new_matrix(seed: u64, name: &str, [rows, columns]: [usize; 2], deviation: f64) -> HostTensor {
    HostTensor {
        shape: vec![rows, columns],
        values: normal(seed ^ name_hash(name), rows * columns, deviation),
    }
}

/// FNV-1a: each tensor gets its own stream, independent of the order in which tensors are asked for.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// SplitMix64 into `(0, 1]`.
fn stream(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 53 bits, and never 0, of which there is no logarithm.
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

/// `count` normal values by Box and Muller's transform.
fn normal(seed: u64, count: usize, deviation: f64) -> Vec<f32> {
    let mut uniform = stream(seed);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let (radius, angle) = (
            (-2.0 * uniform().ln()).sqrt() * deviation,
            std::f64::consts::TAU * uniform(),
        );
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_deviation_asked_for() {
        let values = normal(7, 100_001, 0.02);
        assert_eq!(values.len(), 100_001);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(
            mean.abs() < 3e-4 && (variance.sqrt() - 0.02).abs() < 3e-4,
            "{mean} {variance}"
        );
    }

    #[test]
    fn streams_differ_by_seed_and_name() {
        assert_ne!(normal(1, 4, 1.0), normal(2, 4, 1.0));
        assert_ne!(name_hash("layers.0.q"), name_hash("layers.1.q"));
    }
}
