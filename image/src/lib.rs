//! Container images: where they come from, where they are kept, and what is in them.
//!
//! ```text
//!   file, directory ──▶ source ─┐            ┌─▶ unpack ──▶ RootFs: a directory, shared by pods
//!                               ├──▶ store ──┤
//!   registry ────────▶ source ──┘            └─▶ config ──▶ RunConfig: what is run, as whom, where
//! ```
//!
//! Whatever comes from outside is hostile: names, documents, archives. It is bounded before it is
//! read, verified before it is kept, and unpacked such that nothing leads out of the target.
//!
//! # Map
//! - [`mod@reference`], [`digest`], [`platform`]: how images are named and told apart.
//! - [`source`]: taking images out of files, directories and registries.
//! - [`store`]: keeping them; what pods use is not removed.
//! - [`manifest`]: the documents that describe an image.
//! - [`config`], [`user`]: what an image says about its containers.
//! - [`tar`], [`unpack`]: layers become a directory.
//! - [`progress`]: what happens meanwhile.
//!
//! # Vocabulary
//! A *layer* is a tar archive, compressed or not. A *diff id* is the digest of one before it was
//! compressed, a *chain id* that of several, one upon the other. A *manifest* lists a configuration
//! and layers; an *index* lists manifests for several platforms.
//!
//! # Example
//! ```no_run
//! use podvmm_image::config::Overrides;
//! use podvmm_image::progress::Silent;
//! use podvmm_image::source::{Pull, Wanted};
//! use podvmm_image::store::Store;
//! use podvmm_image::user::identify_in;
//!
//! let store = Store::open(Store::default_dir())?;
//! let image = store.acquire(&"debian:12".parse()?, Pull::Missing, &Wanted::default(), &Silent)?;
//! let process = image.config().run_config(&Overrides::default())?;
//! let root = image.rootfs()?;
//! let user = identify_in(root.dir(), &process.user)?;
//! println!("{:?} as {} in {}", process.args, user.uid, root.path().display());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compression;
pub mod config;
pub mod digest;
pub mod manifest;
mod path;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod source;
pub mod store;
pub mod tar;
#[cfg(test)]
mod testing;
pub mod unpack;
pub mod user;

pub use config::{ImageConfig, Overrides, RunConfig};
pub use digest::Digest;
pub use platform::Platform;
pub use progress::Progress;
pub use reference::Reference;
pub use source::{Pull, Source, SourceError, Wanted};
pub use store::{Image, RootFs, Store, StoreError};
