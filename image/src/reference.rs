//! Names of images, as docker has them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::digest::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Longest registry and repository together.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A text that is no name of an image.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// There is nothing.
    #[error("the name of an image is empty; write for instance debian:12")]
    Empty,
    /// Upper-case letters, which a repository cannot have.
    #[error("image `{0}`: a repository has no upper-case letters; write `{lower}`", lower = .0.to_lowercase())]
    Uppercase(String),
    /// A part of the repository.
    #[error(
        "image `{text}`: `{part}` cannot be part of a repository, which has letters a-z, digits, \
         and single `.`, `_`, `__` or `-` between them"
    )]
    Repository {
        /// The whole text.
        text: String,
        /// What is wrong.
        part: String,
    },
    /// The registry.
    #[error("image `{text}`: `{part}` is no registry; write HOST or HOST:PORT")]
    Registry {
        /// The whole text.
        text: String,
        /// What is wrong.
        part: String,
    },
    /// The tag.
    #[error(
        "image `{text}`: `{part}` is no tag, which has up to 128 letters, digits, `_`, `.` and `-`"
    )]
    Tag {
        /// The whole text.
        text: String,
        /// What is wrong.
        part: String,
    },
    /// The digest.
    #[error("image `{text}`")]
    Digest {
        /// The whole text.
        text: String,
        /// Why.
        source: DigestError,
    },
    /// Registry and repository are too long.
    #[error("image `{0}`: a name has at most 255 characters")]
    TooLong(String),
}

/// The name of an image: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and port, `docker.io` if none was named.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name within the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` if neither tag nor digest was named.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which says more than the tag.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry is asked for.
    pub(crate) fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.into(),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(text, digest)?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[after_slash..].split_once(':') {
            Some((last, tag)) => (&rest[..after_slash + last.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(text, tag)?;
        }
        let (registry, repository) = split_registry(name);
        check_registry(text, registry)?;
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if official {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        check_repository(text, name, &repository)?;
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong(text.into()));
        }
        let default_tag = || digest.is_none().then_some(DEFAULT_TAG);
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.or_else(default_tag).map(str::to_owned),
            digest,
        })
    }
}

fn parse_digest(text: &str, digest: &str) -> Result<Digest, ReferenceError> {
    digest.parse().map_err(|source| ReferenceError::Digest {
        text: text.into(),
        source,
    })
}

/// The first part is a registry if it looks like a host, as docker decides it.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => (DEFAULT_REGISTRY, rest),
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_registry(text: &str, registry: &str) -> Result<(), ReferenceError> {
    let wrong = || ReferenceError::Registry {
        text: text.into(),
        part: registry.into(),
    };
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
        let _: std::net::Ipv6Addr = address.parse().map_err(|_| wrong())?;
        (
            None,
            port.strip_prefix(':').or(port.is_empty().then_some("")),
        )
    } else {
        let (host, port) = registry.split_once(':').unwrap_or((registry, ""));
        (Some(host), Some(port))
    };
    let port = port.ok_or_else(wrong)?;
    let has_port = registry.ends_with(']') || !registry.contains(':') || !port.is_empty();
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let named = host.is_none_or(|host| host.split('.').all(label));
    let numbered = port.is_empty() || port.parse::<u16>().is_ok_and(|port| port != 0);
    (has_port && named && numbered)
        .then_some(())
        .ok_or_else(wrong)
}

fn check_repository(text: &str, name: &str, repository: &str) -> Result<(), ReferenceError> {
    for part in repository.split('/') {
        if is_component(part) {
            continue;
        }
        return Err(
            if is_component(&part.to_lowercase()) && !name.contains(':') {
                ReferenceError::Uppercase(text.into())
            } else {
                ReferenceError::Repository {
                    text: text.into(),
                    part: part.into(),
                }
            },
        );
    }
    Ok(())
}

/// Letters and digits with separators between them: one `.`, one or two `_`, any number of `-`.
fn is_component(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = part.starts_with(word) && part.ends_with(word);
    ends && part.split(word).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.chars().all(|c| c == '-')
    })
}

fn check_tag(text: &str, tag: &str) -> Result<(), ReferenceError> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rest = |c: char| word(c) || c == '.' || c == '-';
    if tag.starts_with(word) && tag.chars().all(rest) && tag.len() <= MAX_TAG {
        return Ok(());
    }
    Err(ReferenceError::Tag {
        text: text.into(),
        part: tag.into(),
    })
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_does() {
        let digest = Digest::of(b"").to_string();
        for (text, whole) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("index.docker.io/debian", "docker.io/library/debian:latest"),
            ("localhost/app:1", "localhost/app:1"),
            (
                "localhost:5000/a/b-c__d.e:V1",
                "localhost:5000/a/b-c__d.e:V1",
            ),
            ("127.0.0.1:80/x", "127.0.0.1:80/x:latest"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("[::1]/x:y", "[::1]/x:y"),
            ("gcr.io/a/b/c/d", "gcr.io/a/b/c/d:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), whole);
            // What it prints is a name of the same image.
            assert_eq!(whole.parse(), Ok(reference));
        }
        let reference: Reference = format!("debian@{digest}").parse().unwrap();
        assert_eq!(
            (reference.tag(), reference.target()),
            (None, digest.clone())
        );
        let reference: Reference = format!("debian:12@{digest}").parse().unwrap();
        assert_eq!((reference.tag(), reference.target()), (Some("12"), digest));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let long = format!("{}x", "a/".repeat(140));
        for (text, word) in [
            ("", "empty"),
            ("Debian", "`debian`"),
            ("a//b", "``"),
            ("/a", "``"),
            ("a/", "``"),
            ("-a", "`-a`"),
            ("a..b", "`a..b`"),
            ("a___b", "`a___b`"),
            ("a b", "`a b`"),
            ("../../etc", "registry"),
            ("debian:", "tag"),
            ("debian:a b", "tag"),
            ("debian:.x", "tag"),
            ("debian@sha256:12", "image"),
            ("host.example:/x", "registry"),
            ("host.example:port/x", "registry"),
            ("host.example:70000/x", "registry"),
            ("[::1/x", "registry"),
            ("[x:]/x", "registry"),
            ("[::1]y/x", "registry"),
            ("-.-/x", "registry"),
            (&long, "255"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
