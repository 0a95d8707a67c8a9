//! Blobs, whose download goes on where it was cut.

use std::io::Read;

use ureq::http::StatusCode;
use ureq::http::header::CONTENT_RANGE;

use super::Remote;
use super::http::{Failure, Response};
use crate::manifest::Descriptor;
use crate::progress::Event;
use crate::source::SourceError;
use crate::store::{Partial, StoreError};

const BUFFER: usize = 128 << 10;

/// Why a download stopped.
enum Stopped {
    Remote(Box<Failure>),
    Store(StoreError),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Remote(Box::new(failure))
    }
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Remote<'_> {
    /// Brings a blob unless it is there; says whether it was brought.
    pub(super) fn download(&self, wanted: &Descriptor) -> Result<bool, SourceError> {
        let Some(mut partial) = self.store.blobs().begin(wanted)? else {
            return Ok(false);
        };
        let resumed = partial.length() > 0;
        self.complete(&mut partial, wanted)?;
        match partial.finish() {
            // What an earlier process left may be damaged, after a power cut for instance.
            Err(StoreError::Digest { .. }) if resumed => {}
            finished => return Ok(finished.map(|()| true)?),
        }
        let Some(mut partial) = self.store.blobs().begin(wanted)? else {
            return Ok(false);
        };
        self.complete(&mut partial, wanted)?;
        partial.finish()?;
        Ok(true)
    }

    /// Goes on until all bytes are there, or there is no progress any more.
    fn complete(&self, partial: &mut Partial, wanted: &Descriptor) -> Result<(), SourceError> {
        let mut failures = 0;
        while partial.length() < wanted.size {
            let before = partial.length();
            match self.part(partial, wanted) {
                Ok(()) => {}
                Err(Stopped::Store(error)) => return Err(error.into()),
                Err(Stopped::Remote(failure)) => {
                    failures = if partial.length() > before {
                        1
                    } else {
                        failures + 1
                    };
                    self.client.pause(*failure, failures)?;
                }
            }
        }
        Ok(())
    }

    /// One request for what is missing.
    fn part(&self, partial: &mut Partial, wanted: &Descriptor) -> Result<(), Stopped> {
        let path = format!("blobs/{}", wanted.digest);
        let start = partial.length();
        let range = format!("bytes={start}-");
        let headers = [("Range", range.as_str())];
        let response = self
            .client
            .get(&path, if start > 0 { &headers } else { &[] })?;
        if start > 0 && !continues(&response, start) {
            // It sends all of it again, or something else than was asked for.
            partial.restart()?;
            if response.status() != StatusCode::OK {
                return Err(self.client.cut().into());
            }
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) if partial.length() < wanted.size => return Err(self.client.cut().into()),
                Ok(0) => return Ok(()),
                Ok(length) => partial.append(&buffer[..length])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(self.client.failed(ureq::Error::from(error)).into());
                }
            }
            self.progress.event(Event::Fetching {
                digest: wanted.digest,
                done: partial.length(),
                total: wanted.size,
            });
        }
    }
}

/// Whether an answer begins at the byte that was asked for.
fn continues(response: &Response, start: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok());
    let begins = |range: &str| {
        let rest = range.strip_prefix("bytes ")?;
        rest.split('-').next()?.trim().parse().ok()
    };
    response.status() == StatusCode::PARTIAL_CONTENT && range.and_then(begins) == Some(start)
}
