//! What an adapter looks like.

use crate::error::{ModelError, Result};

/// Configuration of a [`LoraAdapter`](super::LoraAdapter); names and meanings are PEFT's.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Width between the two matrices.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Share of the adapter's inputs that is dropped while training.
    pub dropout: f64,
    /// Which layers get one.
    pub target_modules: TargetModules,
    /// Whether the scale is `alpha / √rank` (Kalajdzievski 2023, arXiv 2312.03732) instead of `alpha / rank`.
    pub rslora: bool,
}

/// Which linear layers an adapter changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Every one in the blocks; not the output projection.
    AllLinear,
    /// Those whose name is, or ends in a dot and, one of these.
    Names(Vec<String>),
}

impl Default for LoraConfig {
    /// Rank 16, alpha 32, every linear layer.
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: TargetModules::AllLinear,
            rslora: false,
        }
    }
}

impl LoraConfig {
    /// What the update is multiplied by.
    pub fn scale(&self) -> f64 {
        let rank = self.rank.max(1) as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first value out of its range.
    pub fn validate(&self) -> Result<()> {
        let error = |text: String| Err(ModelError::Adapter(text));
        if self.rank == 0 {
            return error("the rank is 0".into());
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return error(format!("alpha is {}; it must be above 0", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return error(format!("dropout is {}; it must be in 0..1", self.dropout));
        }
        Ok(())
    }
}

impl TargetModules {
    /// Whether the layer of this full name is one of them.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::AllLinear => true,
            Self::Names(names) => names.iter().any(|target| is_named(name, target)),
        }
    }

    /// # Errors
    /// When a target matched none of `layers`: it is most likely misspelt.
    pub(super) fn check_used<'a>(&self, layers: impl Iterator<Item = &'a String> + Clone) -> Result<()> {
        let Self::Names(names) = self else { return Ok(()) };
        match names
            .iter()
            .find(|target| !layers.clone().any(|layer| is_named(layer, target)))
        {
            None if !names.is_empty() => Ok(()),
            None => Err(ModelError::Adapter("no target modules are named".into())),
            Some(target) => Err(ModelError::Adapter(format!(
                "no layer is called {target:?}; layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
            ))),
        }
    }
}

fn is_named(layer: &str, target: &str) -> bool {
    layer == target || layer.strip_suffix(target).is_some_and(|head| head.ends_with('.'))
}
