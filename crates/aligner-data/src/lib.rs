//! aligner-data
