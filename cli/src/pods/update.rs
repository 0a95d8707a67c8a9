//! `podvmm update`.

use std::path::Path;

use anyhow::Context;
use sandbox::PodSize;

use super::{alive, each, store};
use crate::args::Update;
use crate::check::print;

pub fn update(args: &Update, root: Option<&Path>) -> anyhow::Result<u8> {
    let store = store(root);
    Ok(each(&args.pods, |name| {
        let client = alive(&store, name)?.client();
        let vcpus = args.cpus.map(|cpus| cpus.get().into());
        let size = client
            .resize(vcpus, args.mem.map(|mem| mem.bytes()))
            .with_context(|| format!("pod {name}"))?;
        if let Some(warning) = shortfall(size) {
            eprintln!("podvmm: pod {name}: {warning}");
        }
        print(&format!("{name}\n"))?;
        Ok(())
    }))
}

/// How a pod is not what it is to be, in words.
fn shortfall(size: PodSize) -> Option<String> {
    let (memory, wanted) = (size.memory >> 20, size.wanted_memory >> 20);
    if memory < wanted {
        return Some(format!(
            "it has {memory} MiB so far, and takes the rest of {wanted} MiB when its guest gets to it"
        ));
    }
    (memory > wanted).then(|| {
        format!("it keeps {memory} MiB for now, and goes down to {wanted} MiB as its guest can do without")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_got_what_was_asked_for_is_told() {
        let size = |memory: u64, wanted_memory: u64| PodSize {
            vcpus: 1,
            max_vcpus: 1,
            memory: memory << 20,
            wanted_memory: wanted_memory << 20,
            max_memory: 1 << 30,
        };
        assert_eq!(shortfall(size(512, 512)), None);
        assert!(
            shortfall(size(512, 640))
                .unwrap()
                .starts_with("it has 512 MiB so far")
        );
        assert!(
            shortfall(size(640, 512))
                .unwrap()
                .starts_with("it keeps 640 MiB for now")
        );
    }
}
