//! aligner-train
