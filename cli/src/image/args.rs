//! The command line of `podvmm image`, and the options of `podvmm run` that are about images.

use std::path::PathBuf;

use clap::Subcommand;
use image::{Platform, Pull, Reference, Source};
use sandbox::config::parse_bytes;

use crate::args::heading;

const EXAMPLES: &str = "\
Examples:
  podvmm image pull debian:12                     from docker.io
  podvmm image pull localhost:5000/app:1          loopback is asked without TLS
  podvmm image import ./app.tar                   what docker save or skopeo wrote
  podvmm image import ./layout:1.2 --name app:1.2
  podvmm image ls
  podvmm image inspect debian:12 --json
  podvmm image rm debian:12
  podvmm image prune --all                        everything that no pod uses

REF is [REGISTRY/]REPOSITORY[:TAG][@DIGEST], as docker has it. IMAGE is such a name, or the first \
digits of an id.

Exit status: 0, or 125 when podvmm failed; one message says what and what to do.";

/// Arguments of `podvmm image`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Image {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Takes an image from a registry
    Pull(PullArgs),
    /// Takes an image out of a file or directory: an OCI layout, an archive of one, or what `docker
    /// save` wrote; plain or compressed
    Import(Import),
    /// Lists images
    Ls(Ls),
    /// Says what is in images and what their containers are like
    Inspect(Inspect),
    /// Removes images
    Rm(Rm),
    /// Throws away what no image needs
    Prune(Prune),
}

/// Where images are kept.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    /// Directory of the images [default: /var/lib/podvmm/images for root, else podvmm/images in
    /// XDG_DATA_HOME or ~/.local/share]
    #[arg(long = "store", value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// How images are chosen and brought.
#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// Which one of an image for several platforms: OS/ARCH or OS/ARCH/VARIANT
    #[arg(long, value_name = "PLATFORM", default_value = "linux/amd64")]
    pub platform: Platform,
    /// Largest size of an image when it is unpacked: 64G, 512M or bytes
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = parse_bytes)]
    pub max_size: u64,
    /// Speaks to the registry without TLS, as is done on loopback in any case
    #[arg(long)]
    pub plain_http: bool,
}

#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// The image
    #[arg(value_name = "REF")]
    pub name: Reference,
    #[command(flatten)]
    pub fetch: FetchArgs,
    /// Says nothing while it comes
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, clap::Args)]
pub struct Import {
    /// File or directory; PATH:TAG if there are several images in it
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Names the image [default: the name that it has there, else one made of the file's]
    #[arg(long, value_name = "REF")]
    pub name: Option<Reference>,
    #[command(flatten)]
    pub fetch: FetchArgs,
    /// Says nothing while it comes
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, clap::Args)]
pub struct Ls {
    /// Prints everything as JSON
    #[arg(long)]
    pub json: bool,
    /// Prints names only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Prints everything as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, clap::Args)]
pub struct Prune {
    /// Removes images as well, all that no pod uses
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// The options of `podvmm run` that are about images.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Image that becomes the container's root: a name such as debian:12, or the path of an OCI layout
    /// or archive, beginning with / or ./
    #[arg(id = "image", long = "image", value_name = "REF", help_heading = heading::IMAGE)]
    pub source: Option<Source>,
    /// Program to run in place of the image's; its arguments are those after `--`
    #[arg(long, value_name = "PROGRAM", conflicts_with = "rootfs", help_heading = heading::COMMAND)]
    pub entrypoint: Option<String>,
    /// Whether the registry is asked: always, missing (if the image is not here) or never
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = pull, help_heading = heading::IMAGE)]
    pub pull: Pull,
    #[command(flatten, next_help_heading = heading::IMAGE)]
    pub fetch: FetchArgs,
    #[command(flatten, next_help_heading = heading::IMAGE)]
    pub store: StoreArgs,
}

fn pull(text: &str) -> Result<Pull, String> {
    match text {
        "always" => Ok(Pull::Always),
        "missing" => Ok(Pull::Missing),
        "never" => Ok(Pull::Never),
        _ => Err(format!("`{text}` is neither always, missing nor never")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_moments_are_read_as_people_write_them() {
        for (text, bytes) in [("64G", 64 << 30), ("1k", 1024), ("5MiB", 5 << 20), ("7", 7)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "1X", "99999999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(pull("always"), Ok(Pull::Always));
        assert!(pull("sometimes").is_err());
    }
}
