//! Runtime handlers: what the cases are run against.

use std::fmt;

/// A handler of containerd's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handler {
    /// Its name, as a RuntimeClass gives it.
    pub name: &'static str,
    /// The runtime type, which says the shim's name.
    pub runtime_type: &'static str,
    /// Whether a pod has a kernel of its own.
    pub own_kernel: bool,
}

/// The reference, and the node's default.
pub const RUNC: Handler = Handler {
    name: "runc",
    runtime_type: "io.containerd.runc.v2",
    own_kernel: false,
};

/// A pod in a virtual machine of its own.
pub const PODVMM: Handler = Handler {
    name: "podvmm",
    runtime_type: "io.containerd.podvmm.v2",
    own_kernel: true,
};

/// As [`PODVMM`], with settings of its own: VMs of 512 MiB.
pub const SMALL: &str = "podvmm-small";

/// Every handler that cases are run against.
pub const ALL: [Handler; 2] = [RUNC, PODVMM];

/// A name that no handler has.
#[derive(Debug, thiserror::Error)]
#[error("there is no runtime handler {name:?} here; take some of {}, separated by commas",
        ALL.map(|handler| handler.name).join(", "))]
pub struct UnknownHandler {
    name: String,
}

impl Handler {
    /// Those of a list such as `runc,podvmm`.
    ///
    /// # Errors
    ///
    /// If one of them is not there.
    pub fn list(names: &str) -> Result<Vec<Self>, UnknownHandler> {
        names
            .split(',')
            .map(|name| {
                ALL.into_iter()
                    .find(|handler| handler.name == name.trim())
                    .ok_or_else(|| UnknownHandler { name: name.into() })
            })
            .collect()
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_handlers_is_read() {
        assert_eq!(Handler::list("runc, podvmm").unwrap(), ALL);
        assert_eq!(Handler::list("podvmm").unwrap(), [PODVMM]);
    }

    #[test]
    fn an_unknown_handler_is_named_along_with_those_there_are() {
        let message = Handler::list("runc,kata").unwrap_err().to_string();
        assert!(
            message.contains("\"kata\"") && message.contains("runc, podvmm"),
            "{message}"
        );
        assert!(Handler::list("").is_err());
    }
}
