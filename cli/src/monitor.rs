//! The process that `podvmm run -d` leaves behind: the pod's monitor.

use std::io;

use sandbox::monitor::MonitorHandle;
use sandbox::monitor::detach::{self, ServeError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

/// Runs the pod that comes on standard input, to its end.
pub fn monitor() -> anyhow::Result<u8> {
    match detach::serve(stop_on_signals) {
        Ok(()) => Ok(0),
        // Whoever asked for the pod was told.
        Err(ServeError::Monitor(error)) => {
            log::error!("{error}");
            Ok(crate::OWN_FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

/// A host that shuts down asks with SIGTERM: the pod is stopped as `podvmm stop` does.
fn stop_on_signals(pod: &MonitorHandle) {
    let watch = || -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP])?;
        let pod = pod.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for _ in signals.forever() {
                    let pod = pod.clone();
                    // A second one is heard while the first stop goes on.
                    std::thread::spawn(move || pod.stop(None));
                }
            })?;
        Ok(())
    };
    if let Err(error) = watch() {
        log::warn!("signals cannot be handled: {error}");
    }
}
