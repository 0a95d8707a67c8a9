//! `podvmm image`: bringing, listing and removing images; and what `podvmm run` needs of them.

pub mod args;
mod list;
mod progress;
mod root;

use std::fmt::Write as _;

use image::source::RegistryOptions;
use image::store::Freed;
use image::unpack::Limits;
use image::{Image, Pull, Source, Store, Wanted};

use self::args::{Command, FetchArgs, StoreArgs};
use self::progress::Meter;
pub use self::root::{Acquired, Process, Root, acquire};
use crate::check::print;

/// Does what the arguments ask for and gives the status.
pub fn image(args: &args::Image) -> anyhow::Result<u8> {
    match &args.command {
        Command::Pull(args) => {
            let store = open(&args.store)?;
            let source = Source::Name(args.name.clone());
            let wanted = wanted(&args.fetch);
            bring(&store, &source, Pull::Always, &wanted, args.quiet)
        }
        Command::Import(args) => {
            let store = open(&args.store)?;
            let mut wanted = wanted(&args.fetch);
            wanted.name.clone_from(&args.name);
            let source = Source::Path(args.path.clone());
            bring(&store, &source, Pull::Always, &wanted, args.quiet)
        }
        Command::Ls(args) => list::list(&open(&args.store)?, args),
        Command::Inspect(args) => list::inspect(&open(&args.store)?, args),
        Command::Rm(args) => remove(&open(&args.store)?, &args.images),
        Command::Prune(args) => {
            let freed = open(&args.store)?.prune(args.all)?;
            print(&told(&freed))?;
            Ok(0)
        }
    }
}

fn open(args: &StoreArgs) -> anyhow::Result<Store> {
    let dir = args.dir.clone().unwrap_or_else(Store::default_dir);
    Ok(Store::open(dir)?)
}

fn wanted(args: &FetchArgs) -> Wanted {
    Wanted {
        platform: args.platform.clone(),
        name: None,
        limits: Limits {
            bytes: args.max_size,
            ..Limits::default()
        },
        registry: RegistryOptions {
            plain_http: args.plain_http,
            ..RegistryOptions::default()
        },
    }
}

/// Brings an image and unpacks it, so that what is wrong with it is found now.
fn bring(
    store: &Store,
    source: &Source,
    pull: Pull,
    wanted: &Wanted,
    quiet: bool,
) -> anyhow::Result<u8> {
    let meter = if quiet {
        Meter::silent()
    } else {
        Meter::lines()
    };
    let image = store.acquire(source, pull, wanted, &meter)?;
    if image.record().platform.os == "linux" {
        let root = image.rootfs_within(wanted.limits, &meter)?;
        if let Some(summary) = root.summary().filter(|_| !quiet) {
            tell_left_out(&image, summary);
        }
    }
    meter.finish();
    print(&format!(
        "{}@{}\n",
        image.name(),
        image.record().manifest.digest
    ))?;
    Ok(0)
}

fn tell_left_out(image: &Image, summary: image::unpack::Summary) {
    if summary.devices > 0 {
        eprintln!(
            "podvmm: {}: {} device nodes were left out; a pod's /dev is its own",
            image.name(),
            summary.devices
        );
    }
    if summary.attributes > 0 {
        eprintln!(
            "podvmm: {}: {} extended attributes were left out; only user.* and security.capability \
             are kept, the latter as root",
            image.name(),
            summary.attributes
        );
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "podvmm: {}: unpacked by a user other than root: all files belong to that user, and \
             look like root's in a pod",
            image.name()
        );
    }
}

fn remove(store: &Store, images: &[String]) -> anyhow::Result<u8> {
    for image in images {
        let freed = store.remove(image)?;
        print(&told(&freed))?;
    }
    Ok(0)
}

fn told(freed: &Freed) -> String {
    let mut text = String::new();
    for name in &freed.names {
        let _ = writeln!(text, "removed {name}");
    }
    for name in &freed.in_use {
        let _ = writeln!(text, "kept {name}: a pod uses it");
    }
    if freed.busy {
        text.push_str("kept all blobs: another podvmm is bringing or unpacking an image\n");
    } else if freed.blobs > 0 || freed.roots > 0 {
        let size = list::human(freed.bytes);
        let _ = writeln!(
            text,
            "freed {size} of {} blobs, and {} unpacked images",
            freed.blobs, freed.roots
        );
    }
    text
}
