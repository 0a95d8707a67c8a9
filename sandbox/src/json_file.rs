//! Files of JSON that are replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

/// Writes `what` to `path`, for this user alone: whoever reads finds the old content or the new, also after
/// a power cut.
///
/// # Errors
/// When the file system refuses; `path` is as it was then.
pub(crate) fn replace(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&serde_json::to_vec_pretty(what)?)?;
    // A power cut must not leave the new name with nothing in it.
    file.sync_data()?;
    fs::rename(&new, path)
}
