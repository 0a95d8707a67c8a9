//! Identifiers of containers and processes.

use std::fmt;

/// Longest identifier in bytes.
pub const MAX_NAME_LEN: usize = 128;

/// Name of a container: 1 to [`MAX_NAME_LEN`] characters of `[A-Za-z0-9_.-]` that start with a letter or
/// digit, so it is a safe path component and no option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

/// Name of a further process in a container, of the same form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecId(String);

/// A name that cannot be an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} id {shown:?} must be 1 to {MAX_NAME_LEN} characters of [A-Za-z0-9_.-] and start with a letter or digit"
)]
pub struct InvalidName {
    /// What it should have named.
    pub kind: &'static str,
    /// The start of the refused name.
    pub shown: String,
}

impl ContainerId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ExecId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for ContainerId {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        check("container", name).map(Self)
    }
}

impl TryFrom<&str> for ExecId {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        check("exec", name).map(Self)
    }
}

fn check(kind: &'static str, name: &str) -> Result<String, InvalidName> {
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if starts_well && name.len() <= MAX_NAME_LEN && name.bytes().all(allowed) {
        Ok(name.to_owned())
    } else {
        Err(InvalidName {
            kind,
            shown: name.chars().take(32).collect(),
        })
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass() {
        for name in ["a", "0", "web-1.front_end", &"x".repeat(MAX_NAME_LEN)] {
            assert_eq!(ContainerId::try_from(name).unwrap().as_str(), name);
            assert_eq!(ExecId::try_from(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_could_leave_their_directory_do_not() {
        let long = "x".repeat(MAX_NAME_LEN + 1);
        for name in [
            "", ".", "..", "../a", "a/b", "/a", "-a", "_a", "a b", "a\0", "a\n", "ä", &long,
        ] {
            assert!(ContainerId::try_from(name).is_err(), "{name:?}");
            assert!(ExecId::try_from(name).is_err(), "{name:?}");
        }
    }
}
