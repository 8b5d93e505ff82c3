//! The layers of the decoder. Field names follow Hugging Face's, so that a module path is a weight name.

mod attention;
mod block;
mod cache;
mod dropout;
mod embedding;
mod mlp;
mod norm;
mod projection;
mod rope;

pub use attention::{Attention, AttentionConfig};
pub use block::{Block, Packed, Rotations};
pub(crate) use cache::CacheShape;
pub use cache::KvCache;
pub use dropout::{Dropout, with_dropout_seed};
pub use embedding::TokenEmbedding;
pub use mlp::{Mlp, MlpConfig};
pub use norm::{RmsNorm, RmsNormConfig};
pub use projection::{Lora, Projection, ProjectionWeight};
pub use rope::{Rope, Rotation};
