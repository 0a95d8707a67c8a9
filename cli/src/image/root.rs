//! What a container's root is, and what its process is by it: for `podvmm run`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, bail};
use image::user::{Identity, identify_in};
use image::{ImageConfig, Overrides, Pull, RootFs, RunConfig, Source};
use rustix::fs::{Mode, OFlags};

use super::args::RunArgs;
use super::progress::Meter;
use super::{open, wanted};
use crate::args::{Run, Variable};

/// A container's root. An image's cannot be removed as long as this lives.
pub struct Root {
    kind: Kind,
    config: ImageConfig,
}

enum Kind {
    Directory { path: std::path::PathBuf },
    Image(RootFs),
}

/// What runs in the container, as whom.
pub struct Process {
    pub run: RunConfig,
    pub identity: Identity,
}

/// An image that is in use as long as this lives.
pub struct Acquired {
    /// Where it is unpacked.
    pub root: RootFs,
    /// What it says of its containers.
    pub config: ImageConfig,
}

impl Acquired {
    /// The signal that asks its containers to end.
    pub fn stop_signal(&self) -> anyhow::Result<u32> {
        // Any program will do: an image may leave that to others.
        let overrides = Overrides {
            entrypoint: Some("/".into()),
            ..Overrides::default()
        };
        Ok(self.config.run_config(&overrides)?.stop_signal)
    }
}

/// Finds or brings an image, and unpacks it if need be.
pub fn acquire(source: &Source, pull: Pull, args: &RunArgs) -> anyhow::Result<Acquired> {
    let meter = Meter::on_terminal();
    let wanted = wanted(&args.fetch);
    let acquired = open(&args.store).and_then(|store| {
        let image = store.acquire(source, pull, &wanted, &meter)?;
        let platform = &image.record().platform;
        if !platform.runs_here() {
            bail!("{} is for {platform}; pods run linux/amd64", image.name());
        }
        let root = image.rootfs_within(wanted.limits, &meter)?;
        Ok(Acquired {
            root,
            config: image.config().clone(),
        })
    });
    meter.finish();
    acquired
}

/// What is said before the reason why there is no image: the name of a file reads like an image's.
fn told(source: &Source) -> String {
    if let Source::Name(name) = source
        && name.registry() == "docker.io"
    {
        let name = name.repository();
        let file = name.strip_prefix("library/").unwrap_or(name);
        if Path::new(file).exists() {
            return format!("--image: for the file or directory here write ./{file}");
        }
    }
    "--image".to_owned()
}

impl Root {
    /// The directory or image that the arguments name; an image is brought and unpacked if need be.
    pub fn of(args: &Run) -> anyhow::Result<Self> {
        let Some(source) = &args.image.source else {
            let path = args.rootfs.clone().unwrap_or_default();
            return Ok(Self {
                kind: Kind::Directory { path },
                config: ImageConfig::default(),
            });
        };
        let Acquired { root, config } =
            acquire(source, args.image.pull, &args.image).with_context(|| told(source))?;
        Ok(Self {
            kind: Kind::Image(root),
            config,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match &self.kind {
            Kind::Directory { path } => path,
            Kind::Image(root) => root.path(),
        }
    }

    /// The lock of an image that is in use.
    pub fn lock(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Directory { .. } => None,
            Kind::Image(root) => Some(root.lock()),
        }
    }

    /// What the arguments and the image make the process.
    pub fn process(&self, args: &Run) -> anyhow::Result<Process> {
        let overrides = Overrides {
            entrypoint: args.image.entrypoint.clone(),
            args: args.command.clone(),
            env: args
                .env
                .iter()
                .filter_map(|Variable(text)| text.clone())
                .collect(),
            user: args.user.clone(),
            workdir: args.workdir.clone(),
        };
        let mut run = self.config.run_config(&overrides).context("--image")?;
        let opened: OwnedFd;
        let dir: BorrowedFd<'_> = match &self.kind {
            Kind::Image(root) => root.dir(),
            Kind::Directory { path } => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let dir = rustix::fs::open(path, flags, Mode::empty());
                opened = dir.with_context(|| format!("--rootfs {}", path.display()))?;
                opened.as_fd()
            }
        };
        let identity = identify_in(dir, &run.user).with_context(|| match &self.kind {
            _ if args.user.is_some() => "--user".to_owned(),
            Kind::Image(_) => "the user that the image names".to_owned(),
            Kind::Directory { path } => format!("--rootfs {}", path.display()),
        })?;
        if let Some(home) = &identity.home
            && !run.env.iter().any(|variable| variable.starts_with("HOME="))
        {
            run.env.push(format!("HOME={home}"));
        }
        Ok(Process { run, identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_have_meant_a_file_is_told_how_to_write_it() {
        // Tests run in the package's directory.
        assert!(told(&"src".parse().unwrap()).ends_with("write ./src"));
        assert!(told(&"src/image:1".parse().unwrap()).ends_with("write ./src/image"));
        for name in ["nothing", "localhost/src", "./src"] {
            assert_eq!(told(&name.parse().unwrap()), "--image", "{name}");
        }
    }
}
