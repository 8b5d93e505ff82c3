//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of Hugging Face.

use burn::tensor::{Device, Tensor, TensorData};

use crate::config::RopeConfig;

/// The rotary embedding of a model or of some of its layers.
#[derive(Debug, Clone)]
pub struct Rope {
    config: RopeConfig,
    inverse_frequencies: Vec<f32>,
}

/// Cosines and sines for one run of positions, shared by all layers of a forward pass.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `[tokens, rotary_dim / 2]`
    cos: Tensor<2>,
    /// `[tokens, rotary_dim / 2]`
    sin: Tensor<2>,
}

impl Rope {
    /// The embedding that a configuration describes.
    pub fn new(config: &RopeConfig) -> Self {
        Self {
            inverse_frequencies: config.inverse_frequencies(1),
            config: config.clone(),
        }
    }

    /// The rotation of the positions `start .. start + tokens`.
    ///
    /// Angles are computed on the host in f32, as the reference implementation does; for the few thousand positions of a
    /// pass this costs less than keeping a table of the whole context.
    pub fn rotation(&self, start: usize, tokens: usize, device: &Device) -> Rotation {
        self.rotation_of(&[(start, tokens)], device)
    }

    /// The rotations of several runs of positions, one behind the other: each the first one and how many there are.
    pub fn rotation_of(&self, runs: &[(usize, usize)], device: &Device) -> Rotation {
        let factor = self.config.attention_factor() as f32;
        let tokens: usize = runs.iter().map(|(_, tokens)| tokens).sum();
        let half = self.inverse_frequencies.len();
        let (mut cos, mut sin) = (
            Vec::with_capacity(tokens * half),
            Vec::with_capacity(tokens * half),
        );
        for &(start, tokens) in runs {
            // Keys that are in a cache keep their rotation: `ModelConfig::cached_positions` ends where it would change.
            let changed = self
                .config
                .depends_on_length()
                .then(|| self.config.inverse_frequencies(start + tokens));
            let frequencies = changed.as_ref().unwrap_or(&self.inverse_frequencies);
            for position in start..start + tokens {
                for frequency in frequencies {
                    let (s, c) = (position as f32 * frequency).sin_cos();
                    cos.push(c * factor);
                    sin.push(s * factor);
                }
            }
        }
        let upload = |values| Tensor::from_data(TensorData::new(values, [tokens, half]), device);
        Rotation {
            cos: upload(cos),
            sin: upload(sin),
        }
    }
}

impl Rotation {
    /// The rotation that changes nothing.
    pub fn none(tokens: usize, device: &Device) -> Self {
        Self {
            cos: Tensor::ones([tokens, 1], device),
            sin: Tensor::zeros([tokens, 1], device),
        }
    }

    /// Cosines and sines, each `[tokens, rotary_dim / 2]`.
    pub fn into_parts(self) -> (Tensor<2>, Tensor<2>) {
        (self.cos, self.sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;
    use crate::kernels::reference;

    fn rotate(x: [f32; 4], position: usize) -> Vec<f32> {
        let device = Device::flex();
        let rope = Rope::new(&RopeConfig {
            theta: 100.0,
            rotary_dim: 4,
            scaling: RopeScaling::None,
        });
        let x = Tensor::<1>::from_floats(x, &device).reshape([1, 1, 1, 4]);
        let (cos, sin) = rope.rotation(position, 1, &device).into_parts();
        reference::rotate(x, cos, sin).try_into_vec_as().unwrap()
    }

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        let [a, b, c, d] = [0.3f32, -1.0, 2.0, 0.5];
        let turned = rotate([a, b, c, d], 3);
        let ((s0, c0), (s1, c1)) = (3f32.sin_cos(), 0.3f32.sin_cos());
        let expected = [a * c0 - c * s0, b * c1 - d * s1, c * c0 + a * s0, d * c1 + b * s1];
        for (got, want) in turned.iter().zip(expected) {
            assert!((got - want).abs() < 1e-6, "{turned:?} {expected:?}");
        }
    }

    #[test]
    fn position_zero_is_the_identity() {
        assert_eq!(rotate([1.0, 2.0, 3.0, 4.0], 0), vec![1.0, 2.0, 3.0, 4.0]);
    }
}
