//! Looking into a model: how probable it holds each token of a correction, and what its layers hold where the first ones are
//! chosen.

mod states;
mod tokens;

pub use states::OutputStates;
pub use tokens::{Alternative, InspectedToken, Inspection};
