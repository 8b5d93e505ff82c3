//! Small files as a whole.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{ModelError, Result};

/// The largest configuration that is read. The largest seen of real models are a few hundred kilobytes; what JSON takes
/// in memory is a multiple of its length.
pub(crate) const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A regular file of at most `max_bytes`.
pub(crate) fn bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let io = || ModelError::io("read", path);
    // Before it is opened: a pipe would wait for somebody to write.
    let metadata = std::fs::metadata(path).map_err(io())?;
    if !metadata.is_file() {
        return Err(ModelError::weights(path, "is not a file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io())?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(io())?;
    if bytes.len() as u64 > max_bytes {
        let reason = format!("is larger than the {max_bytes} bytes that such a file may have");
        return Err(ModelError::weights(path, reason));
    }
    Ok(bytes)
}

pub(crate) fn json_error(path: &Path) -> impl FnOnce(serde_json::Error) -> ModelError {
    let path = path.to_path_buf();
    move |source| ModelError::Json { path, source }
}
