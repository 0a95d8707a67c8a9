//! Images out of a registry, by the OCI distribution protocol.
//!
//! ```text
//!   name ──▶ manifest ──▶ (index: the manifest for the platform) ──▶ configuration, layers
//! ```
//!
//! The answers come from strangers. Documents are bounded, blobs have the size and digest that their
//! manifest says, and credentials go to the registry's own host, to the realm that it names, and over
//! TLS; redirects are followed without them.

mod auth;
mod download;
mod error;
mod http;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::error::RegistryError;
use self::http::Client;
use crate::digest::Digest;
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, MAX_DOCUMENT, ManifestError, OCI_INDEX,
    OCI_MANIFEST,
};
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::source::{Found, SourceError};
use crate::store::{Store, StoreError};

/// How long is waited, and how often tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes.
    pub silence: Duration,
    /// Attempts without any progress.
    pub attempts: u32,
    /// Before the second attempt; before each further one twice as long.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            silence: Duration::from_secs(30),
            attempts: 5,
            pause: Duration::from_secs(1),
        }
    }
}

/// How registries are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Without TLS even if the registry is not on this host.
    pub plain_http: bool,
    /// How long is waited.
    pub patience: Patience,
    /// The value of an `Authorization` header of the kind `Basic` without that word; by default that
    /// which `docker login` has left.
    pub credentials: Option<String>,
}

/// One repository of a registry.
struct Remote<'a> {
    client: Client<'a>,
    store: &'a Store,
    name: &'a Reference,
    progress: &'a dyn Progress,
}

/// Brings everything that a name stands for on a platform.
pub(super) fn fetch(
    store: &Store,
    name: &Reference,
    platform: &Platform,
    options: &RegistryOptions,
    progress: &dyn Progress,
) -> Result<Found, SourceError> {
    let shown = name.to_string();
    progress.event(Event::Resolving(&shown));
    let remote = Remote {
        client: Client::new(name, options, progress)?,
        store,
        name,
        progress,
    };
    let manifest = remote.image(platform)?;
    Ok(Found {
        manifest,
        name: Some(name.clone()),
    })
}

impl Remote<'_> {
    fn image(&self, platform: &Platform) -> Result<Descriptor, SourceError> {
        let (first, document) = self.document(&self.name.target(), self.name.digest())?;
        let (at, manifest) = match document {
            Document::Manifest(manifest) => (first, manifest),
            Document::Index(index) => {
                let chosen = index.choose(platform)?;
                chosen.at_most("manifest", MAX_DOCUMENT)?;
                let digest = chosen.digest;
                match self.document(&digest.to_string(), Some(digest))? {
                    (at, Document::Manifest(manifest)) => (at, manifest),
                    (_, Document::Index(_)) => return Err(ManifestError::Nested(digest).into()),
                }
            }
        };
        self.download(&manifest.config)?;
        for layer in &manifest.layers {
            if self.download(layer)? {
                self.progress.event(Event::Fetched {
                    digest: layer.digest,
                    size: layer.size,
                });
            }
        }
        Ok(at)
    }

    /// A document, verified by the digest that is asked for, or that the registry says it has.
    fn document(
        &self,
        target: &str,
        digest: Option<Digest>,
    ) -> Result<(Descriptor, Document), SourceError> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let answer = self
            .client
            .document(&format!("manifests/{target}"), &accept)?;
        let found = Digest::of(&answer.bytes);
        if let Some(wanted) = digest.or(answer.digest)
            && wanted != found
        {
            return Err(StoreError::Digest { wanted, found }.into());
        }
        let at = Descriptor::new(&answer.media_type, found, answer.bytes.len() as u64);
        let document = Document::parse(found, &answer.media_type, &answer.bytes)?;
        self.store.blobs().put(&at, &answer.bytes)?;
        Ok((at, document))
    }
}
