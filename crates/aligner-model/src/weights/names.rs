//! Module paths ↔ weight names.
//!
//! Fields carry Hugging Face's names, so for the Llama family the map is a prefix. A family that names things otherwise
//! adds a table here.

/// The weight name of a module path such as `layers.0.self_attn.q_proj.weight`.
pub(super) fn weight_name(path: &str) -> String {
    if path.starts_with("lm_head.") {
        path.to_string()
    } else {
        format!("model.{path}")
    }
}

/// Names that other programs store and this one computes or does not need.
pub(super) fn is_redundant(name: &str, tied: bool) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight")
}
