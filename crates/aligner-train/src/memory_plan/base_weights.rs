//! How the weights lie in memory that are not trained.

/// How the linear layers of the blocks are held under an adapter; what is trained is always f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BaseWeights {
    /// As they are computed with.
    #[default]
    F32,
    /// In eight bits with an f32 scale for every 32 weights, turned into f32 where a product needs them.
    Int8,
}

impl BaseWeights {
    /// Those that `aligner train` has a switch for; a plan's advice names no others.
    pub const OFFERED: &[Self] = &[Self::F32];

    /// Bytes of the weight of a linear layer.
    pub fn bytes(self, input: usize, output: usize) -> usize {
        match self {
            Self::F32 => input * output * 4,
            Self::Int8 => (input + input.div_ceil(32) * 4) * output,
        }
    }

    /// Bytes that a product with such a weight takes for it as f32.
    pub fn scratch_bytes(self, input: usize, output: usize) -> usize {
        match self {
            Self::F32 => 0,
            Self::Int8 => input * output * 4,
        }
    }
}

impl std::fmt::Display for BaseWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        })
    }
}
