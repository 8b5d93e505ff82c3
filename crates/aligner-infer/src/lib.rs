//! aligner-infer
