//! Requests to one repository: with TLS or without, with authorization, and again if they fail.

use std::cell::RefCell;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::auth::{self, Challenge};
use super::{RegistryError, RegistryOptions};
use crate::digest::Digest;
use crate::manifest::MAX_DOCUMENT;
use crate::progress::{Event, Progress};
use crate::reference::Reference;

pub(super) type Response = ureq::http::Response<Body>;

/// Longest pause that a registry can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// As much of an error's text as is looked at, and as is shown.
const MAX_ERROR: u64 = 16 << 10;
const SHOWN_ERROR: usize = 300;
const MAX_TOKEN: u64 = 1 << 20;

/// A document as it came.
pub(super) struct Answer {
    pub media_type: String,
    /// What the registry says its digest is.
    pub digest: Option<Digest>,
    pub bytes: Vec<u8>,
}

/// An attempt that failed.
pub(super) struct Failure {
    pub error: RegistryError,
    /// Whether another attempt makes sense, and when the registry wants it.
    pub again: Option<Option<Duration>>,
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, again: None }
    }
}

pub(super) struct Client<'a> {
    agent: Agent,
    pub(super) host: String,
    base: String,
    name: &'a Reference,
    pub(super) options: &'a RegistryOptions,
    credentials: Option<String>,
    /// The value of the header `Authorization`, once the registry has asked for one.
    authorization: RefCell<Option<String>>,
    progress: &'a dyn Progress,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        name: &'a Reference,
        options: &'a RegistryOptions,
        progress: &'a dyn Progress,
    ) -> Result<Self, RegistryError> {
        let host = match name.registry() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let loopback = is_loopback(host);
        let plain = options.plain_http || loopback;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(!plain)
            .max_redirects(5)
            .user_agent(concat!("podvmm/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(options.patience.connect))
            .timeout_per_read(Some(options.patience.silence))
            .timeout_per_write(Some(options.patience.silence));
        if loopback {
            config = config.proxy(None);
        }
        if !plain {
            config = config.tls_config(tls()?);
        }
        let scheme = if plain { "http" } else { "https" };
        let credentials = options.credentials.clone();
        Ok(Self {
            agent: config.build().new_agent(),
            base: format!("{scheme}://{host}/v2/{}", name.repository()),
            credentials: credentials.or_else(|| auth::stored_credentials(name.registry())),
            host: host.into(),
            name,
            options,
            authorization: RefCell::new(None),
            progress,
        })
    }

    /// A document of the repository.
    pub(super) fn document(&self, path: &str, accept: &str) -> Result<Answer, RegistryError> {
        self.repeat(|| {
            let response = self.get(path, &[("Accept", accept)])?;
            let header = |name: &str| {
                let value = response.headers().get(name)?.to_str().ok()?;
                Some(value.to_owned())
            };
            let media_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim();
            let digest = header("docker-content-digest").and_then(|text| text.parse().ok());
            let media_type = media_type.to_owned();
            let bytes = self.read_all(response, path, MAX_DOCUMENT)?;
            Ok(Answer {
                media_type,
                digest,
                bytes,
            })
        })
    }

    /// Tries until it works, makes no sense to go on, or has failed too often.
    fn repeat<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    failures += 1;
                    self.pause(failure, failures)?;
                }
            }
        }
    }

    /// Waits before the next attempt, or gives up.
    pub(super) fn pause(&self, failure: Failure, failures: u32) -> Result<(), RegistryError> {
        let patience = self.options.patience;
        let Some(wish) = failure.again.filter(|_| failures < patience.attempts) else {
            return Err(failure.error);
        };
        let usual = patience.pause.saturating_mul(1 << (failures - 1).min(6));
        let after = wish.unwrap_or(usual).min(MAX_PAUSE);
        self.progress.event(Event::Retrying {
            reason: &failure.error.to_string(),
            after,
        });
        std::thread::sleep(after);
        Ok(())
    }

    /// One request that is answered with success, after a login if the registry asks for one.
    pub(super) fn get(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Response, Failure> {
        let mut response = self.send(path, headers)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.log_in(&response)?;
            response = self.send(path, headers)?;
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response.headers().get(RETRY_AFTER);
        let wish = retry_after
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let detail = self.detail(response);
        let (host, name) = (self.host.clone(), self.name.to_string());
        let code = status.as_u16();
        Err(match code {
            401 | 403 => RegistryError::Denied {
                host,
                name,
                who: if self.credentials.is_some() {
                    "this login"
                } else {
                    "everybody"
                },
                detail,
            }
            .into(),
            404 if path.starts_with("manifests/") => {
                RegistryError::NotFound { host, name, detail }.into()
            }
            408 | 429 | 500..=599 => Failure {
                error: RegistryError::Busy {
                    host,
                    status: code,
                    detail,
                },
                again: Some(wish),
            },
            _ => RegistryError::Status {
                host,
                what: path.into(),
                status: code,
                detail,
            }
            .into(),
        })
    }

    fn send(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Response, Failure> {
        let mut request = self.agent.get(format!("{}/{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &*self.authorization.borrow() {
            request = request.header("Authorization", authorization);
        }
        request.call().map_err(|error| self.failed(error))
    }

    /// Does what a registry asks for that does not know who is asking.
    fn log_in(&self, response: &Response) -> Result<(), Failure> {
        let header = response.headers().get(WWW_AUTHENTICATE);
        let header = header.and_then(|value| value.to_str().ok());
        let failed = |reason: &str| RegistryError::Login {
            host: self.host.clone(),
            reason: reason.into(),
        };
        let challenge = Challenge::parse(header.unwrap_or_default());
        let authorization = match (challenge, &self.credentials) {
            (Challenge::Basic, Some(credentials)) => format!("Basic {credentials}"),
            // The second answer says that it is denied.
            (Challenge::Basic, None) => return Ok(()),
            (Challenge::Unknown, _) => {
                return Err(failed("neither Basic nor Bearer is asked for").into());
            }
            (Challenge::Bearer(bearer), _) => {
                if self.base.starts_with("https:") && !bearer.realm.starts_with("https:") {
                    return Err(failed("its realm has no TLS").into());
                }
                let mut request = self.agent.get(bearer.url(self.name.repository()));
                if let Some(credentials) = &self.credentials {
                    request = request.header("Authorization", format!("Basic {credentials}"));
                }
                let response = request.call().map_err(|error| self.failed(error))?;
                let status = response.status();
                if !status.is_success() {
                    let detail = self.detail(response);
                    let text = format!("the realm answers {status}{detail}");
                    let busy = status.is_server_error() || status.as_u16() == 429;
                    return Err(Failure {
                        error: failed(&text),
                        again: busy.then_some(None),
                    });
                }
                let bytes = self.read_all(response, "a token", MAX_TOKEN)?;
                let token = auth::token(&bytes).ok_or_else(|| failed("no token comes"))?;
                format!("Bearer {token}")
            }
        };
        self.authorization.replace(Some(authorization));
        Ok(())
    }

    fn read_all(&self, response: Response, what: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let reader = response.into_body().into_reader();
        match reader.take(limit + 1).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > limit => Err(RegistryError::TooLarge {
                host: self.host.clone(),
                what: what.into(),
                limit,
            }
            .into()),
            Ok(_) => Ok(bytes),
            Err(error) => Err(self.failed(ureq::Error::from(error))),
        }
    }

    /// What an error's body says, if it says it as registries do.
    fn detail(&self, response: Response) -> String {
        let mut bytes = Vec::new();
        let reader = response.into_body().into_reader();
        // It is an error in any case.
        let _ = reader.take(MAX_ERROR).read_to_end(&mut bytes);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let Some(text) = value["errors"][0]["message"].as_str() else {
            return String::new();
        };
        let text = text.chars().filter(|c| !c.is_control());
        let text: String = text.take(SHOWN_ERROR).collect();
        format!(" (it says: {text})")
    }

    /// What a failed exchange is told as, and whether the next may go better.
    pub(super) fn failed(&self, error: ureq::Error) -> Failure {
        let patience = self.options.patience;
        let host = self.host.clone();
        let cut = |error: &std::io::Error| {
            use std::io::ErrorKind as Kind;
            matches!(
                error.kind(),
                Kind::UnexpectedEof
                    | Kind::ConnectionReset
                    | Kind::ConnectionAborted
                    | Kind::BrokenPipe
            )
        };
        match error {
            ureq::Error::Timeout(ureq::Timeout::PerRead) => Failure {
                error: RegistryError::Stalled {
                    host,
                    silence: patience.silence,
                    attempts: patience.attempts,
                },
                again: Some(None),
            },
            ureq::Error::Timeout(_) => Failure {
                error: RegistryError::Http {
                    host,
                    cause: Box::new(error),
                },
                again: Some(None),
            },
            ureq::Error::Io(error) if cut(&error) => self.cut(),
            error => RegistryError::Http {
                host,
                cause: Box::new(error),
            }
            .into(),
        }
    }

    pub(super) fn cut(&self) -> Failure {
        Failure {
            error: RegistryError::Cut {
                host: self.host.clone(),
                attempts: self.options.patience.attempts,
            },
            again: Some(None),
        }
    }
}

/// Whether a registry is on this host, so that nobody can listen in between.
fn is_loopback(host: &str) -> bool {
    let name = if let Some(rest) = host.strip_prefix('[') {
        rest.split(']').next().unwrap_or_default()
    } else {
        host.split(':').next().unwrap_or_default()
    };
    let address: Result<std::net::IpAddr, _> = name.parse();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// TLS with the certificates that this host trusts.
fn tls() -> Result<TlsConfig, RegistryError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::warn!("a CA certificate cannot be used: {error}");
    }
    if found.certs.is_empty() {
        return Err(RegistryError::NoRoots);
    }
    let roots: Vec<_> = found
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
