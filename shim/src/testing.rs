//! What the tests of several modules need.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::args::{Action, Args};
use crate::pod::{News, Pod};

/// A pod without a VM, which is what calls in the wrong order meet, and its news.
pub fn pod() -> (Arc<Pod>, mpsc::Receiver<News>) {
    Pod::new(Args {
        action: Action::Serve,
        namespace: "test".into(),
        address: String::new(),
        id: "pod".into(),
        bundle: None,
        debug: false,
    })
}

/// Does `work` on one thread, as the shim does.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
