//! `aligner inspect`

pub mod layers;
pub mod tokens;
