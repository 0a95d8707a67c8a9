//! Why a call failed, as the host sees it.

use std::fmt;

use ttrpc::Code;

/// A ttrpc status that is not OK.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Refusal {
    /// The request itself is wrong.
    pub(crate) fn invalid(message: impl fmt::Display) -> Self {
        Self {
            code: Code::INVALID_ARGUMENT,
            message: message.to_string(),
        }
    }

    /// The request asks for something that this agent does not do.
    pub(crate) fn unimplemented(message: impl fmt::Display) -> Self {
        Self {
            code: Code::UNIMPLEMENTED,
            message: message.to_string(),
        }
    }

    /// The request is right at another time.
    pub(crate) fn precondition(message: impl fmt::Display) -> Self {
        Self {
            code: Code::FAILED_PRECONDITION,
            message: message.to_string(),
        }
    }

    /// No such container.
    pub(crate) fn not_found(message: impl fmt::Display) -> Self {
        Self {
            code: Code::NOT_FOUND,
            message: message.to_string(),
        }
    }

    /// The name is taken.
    pub(crate) fn exists(message: impl fmt::Display) -> Self {
        Self {
            code: Code::ALREADY_EXISTS,
            message: message.to_string(),
        }
    }

    /// A bound was reached.
    pub(crate) fn exhausted(message: impl fmt::Display) -> Self {
        Self {
            code: Code::RESOURCE_EXHAUSTED,
            message: message.to_string(),
        }
    }

    /// The guest failed, not the request.
    pub(crate) fn internal(message: impl fmt::Display) -> Self {
        Self {
            code: Code::INTERNAL,
            message: message.to_string(),
        }
    }
}
