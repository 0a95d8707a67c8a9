//! Paths of a configuration.

use crate::rpc::Refusal;

/// A list of absolute paths.
pub(super) fn all_absolute(field: &str, paths: Vec<String>) -> Result<Vec<String>, Refusal> {
    paths.iter().map(|path| absolute(field, path)).collect()
}

/// A path without "." and empty components; ".." and NUL are refused.
fn clean_path(field: &str, path: &str) -> Result<String, Refusal> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if path.contains('\0') || path.len() >= libc::PATH_MAX as usize || parts.contains(&"..") {
        return Err(Refusal::invalid(format!(
            "{field} {path:?} is not a plain path"
        )));
    }
    Ok(parts.join("/"))
}

/// A path inside a container, without "." and empty components.
pub(super) fn absolute(field: &str, path: &str) -> Result<String, Refusal> {
    if path.starts_with('/') {
        Ok(format!("/{}", clean_path(field, path)?))
    } else {
        Err(Refusal::invalid(format!(
            "{field} {path:?} is not absolute"
        )))
    }
}

/// Likewise one below something else.
pub(crate) fn relative(field: &str, path: &str) -> Result<String, Refusal> {
    let clean = clean_path(field, path)?;
    if clean.is_empty() || path.starts_with('/') {
        return Err(Refusal::invalid(format!(
            "{field} {path:?} is not a relative path"
        )));
    }
    Ok(clean)
}
