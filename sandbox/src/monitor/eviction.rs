//! Ends a pod whose emptyDir on disk has become larger than it may be, as the kubelet does.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::{Shared, State};
use super::usage::{Bounds, Unmeasured, measure};
use super::volumes::SizeLimit;
use super::{MonitorError, STACK, supervise};

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(10);
/// Whatever a guest has made there, looking takes no more than this part of the time.
const SHARE_OF_TIME: u32 = 5;
/// As deep and as much as is looked at. A guest could hide more below what is not.
const MAX_DEPTH: usize = 256;
const MAX_NAMES: u64 = 10_000_000;
/// How long containers may take to end, as with the kubelet.
const GRACE: Duration = Duration::from_secs(1);

/// A directory with a limit.
#[derive(Debug)]
pub(super) struct Watched {
    /// What the pod calls it.
    pub volume: String,
    pub limit: SizeLimit,
    pub dir: OwnedFd,
}

/// Looks from now on, if there is anything to look at.
pub(super) fn watch(shared: &Arc<Shared>, volumes: Vec<Watched>) -> Result<(), MonitorError> {
    if volumes.is_empty() {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("usage".into())
        .stack_size(STACK);
    let watch = move || {
        let is_ending = |state: &State| state.no_more_starts || state.is_done();
        loop {
            let began = Instant::now();
            let is_wanted = || !is_ending(&shared.lock());
            let complaint = volumes.iter().find_map(|volume| volume.look(is_wanted));
            if let Some(complaint) = complaint {
                shared.end_because(format!("Evicted: {complaint}"));
                return supervise::stop(&shared, Some(GRACE));
            }
            let pause = PERIOD.max(began.elapsed() * (SHARE_OF_TIME - 1));
            if shared.wait_until(Some(pause), is_ending) {
                return;
            }
        }
    };
    thread.spawn(watch).map(drop).map_err(MonitorError::Thread)
}

impl Watched {
    /// What is wrong with it, in the kubelet's words where it has some.
    fn look(&self, is_wanted: impl Fn() -> bool) -> Option<String> {
        let bounds = Bounds {
            bytes: self.limit.bytes,
            depth: MAX_DEPTH,
            names: MAX_NAMES,
        };
        let Self { volume, limit, .. } = self;
        let unknown = |why: String| {
            format!("Usage of EmptyDir volume \"{volume}\" cannot be measured: {why}.")
        };
        match measure(&self.dir, bounds, is_wanted) {
            Ok(bytes) if bytes > limit.bytes => Some(format!(
                "Usage of EmptyDir volume \"{volume}\" exceeds the limit \"{}\".",
                limit.text
            )),
            Ok(_) | Err(Unmeasured::Stopped) => None,
            Err(Unmeasured::TooDeep(depth)) => Some(unknown(format!(
                "its directories are nested more than {depth} deep"
            ))),
            Err(Unmeasured::TooMany(names)) => {
                Some(unknown(format!("it has more than {names} files")))
            }
            Err(Unmeasured::Io(error)) => {
                log::warn!("{}", unknown(error.to_string()));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn what_is_too_large_is_told_in_the_kubelets_words() {
        let dir = std::env::temp_dir().join(format!("podvmm-eviction-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let watched = Watched {
            volume: "x".into(),
            limit: SizeLimit {
                bytes: 2 << 20,
                text: "2Mi".into(),
            },
            dir: File::open(&dir).unwrap().into(),
        };
        assert_eq!(watched.look(|| true), None);
        fs::write(dir.join("big"), vec![7; 4 << 20]).unwrap();
        let words = "Usage of EmptyDir volume \"x\" exceeds the limit \"2Mi\".";
        assert_eq!(watched.look(|| true).as_deref(), Some(words));
        // One that has nothing left is of no interest.
        fs::remove_file(dir.join("big")).unwrap();
        assert_eq!(watched.look(|| true), None);
        let mut deep = dir.clone();
        for _ in 0..MAX_DEPTH {
            deep.push("d");
        }
        fs::create_dir_all(deep).unwrap();
        let complaint = watched.look(|| true).unwrap();
        assert!(
            complaint.contains("nested more than 256 deep"),
            "{complaint}"
        );
        fs::remove_dir_all(dir).unwrap();
    }
}
