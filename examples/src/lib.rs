//! Programs that embed the Aligner libraries.
