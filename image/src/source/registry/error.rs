//! Why a registry did not give what it was asked for.

use std::time::Duration;

use thiserror::Error;

/// A registry that did not give what it was asked for.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// It cannot be spoken to.
    #[error("registry {host}: {}", explain(.cause))]
    Http {
        /// The registry.
        host: String,
        /// Why; part of the message.
        cause: Box<ureq::Error>,
    },
    /// It has stopped sending.
    #[error("registry {host}: has sent nothing for {} s, {attempts} times", .silence.as_secs_f32())]
    Stalled {
        /// The registry.
        host: String,
        /// How long was waited.
        silence: Duration,
        /// How often.
        attempts: u32,
    },
    /// The connection has been cut, again and again.
    #[error("registry {host}: the connection was cut {attempts} times without progress")]
    Cut {
        /// The registry.
        host: String,
        /// How often.
        attempts: u32,
    },
    /// There are no certificates to verify it by.
    #[error(
        "no CA certificates are installed, so no registry can be trusted; install ca-certificates, \
         or set SSL_CERT_FILE"
    )]
    NoRoots,
    /// There is no such image.
    #[error("registry {host} has no image {name}{detail}")]
    NotFound {
        /// The registry.
        host: String,
        /// The image.
        name: String,
        /// What the registry says.
        detail: String,
    },
    /// It may not be had.
    #[error(
        "registry {host} does not give {name} to {who}: it does not exist, or needs a login that may \
         read it{detail}; `docker login {host}` leaves one where podvmm finds it"
    )]
    Denied {
        /// The registry.
        host: String,
        /// The image.
        name: String,
        /// Who was asking.
        who: &'static str,
        /// What the registry says.
        detail: String,
    },
    /// It is too busy.
    #[error("registry {host}: answers {status} again and again{detail}; try later")]
    Busy {
        /// The registry.
        host: String,
        /// The status.
        status: u16,
        /// What the registry says.
        detail: String,
    },
    /// It answers what makes no sense.
    #[error("registry {host}: answers {status} to a request for {what}{detail}")]
    Status {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// What the registry says.
        detail: String,
    },
    /// A document is too large.
    #[error("registry {host}: sends more than {limit} bytes for {what}")]
    TooLarge {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The bound.
        limit: u64,
    },
    /// It asks for a kind of login that podvmm does not know, or sends to a place not to be trusted.
    #[error("registry {host}: asks for a login that cannot be done: {reason}")]
    Login {
        /// The registry.
        host: String,
        /// Why.
        reason: String,
    },
}

fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "there is no host of this name".into(),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "the connection is refused; nothing listens there".into()
        }
        ureq::Error::Io(error) if error.to_string().contains("lookup address") => {
            "its name cannot be resolved".into()
        }
        ureq::Error::RequireHttpsOnly(_) => "redirects to where there is no TLS".into(),
        ureq::Error::Timeout(_) => "does not answer in time".into(),
        other => {
            let text = other.to_string();
            let plain = text.contains("InvalidContentType") || text.contains("corrupt message");
            let hint = if plain {
                "; if it has no TLS, say --plain-http"
            } else {
                ""
            };
            format!("{text}{hint}")
        }
    }
}
