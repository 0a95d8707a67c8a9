//! Kubernetes Pod manifests: read, checked in full, and turned into what a runtime has to do.
//!
//! ```text
//!   YAML or JSON ──yaml──▶ tree with places ──reader, schema──▶ Pod ──plan──▶ Plan
//!                                        │                       (images, addresses)
//!                                        ▼
//!                                     problems, all of them, by line
//! ```
//!
//! Nothing in here does I/O except [`given`] and [`host_path`], and nothing knows what a virtual machine is.
//!
//! # Map
//! - [`fn@parse`]: a text becomes a [`Manifest`], or a list of [`Problem`]s that name field, line, column
//!   and remedy.
//! - [`schema`]: all fields that a Pod has, and what becomes of each.
//! - [`pod`]: the checked pod. [`quantity`]: amounts. [`objects`]: ConfigMaps and Secrets; [`given`] reads
//!   them from files.
//! - [`mod@plan`]: what a runtime has to do, with images and addresses known; [`host_path`] makes what a
//!   hostPath asks for.
//!
//! # Vocabulary
//! *Supported*: a field that is carried out. *Accepted*: one that can have no effect here, for a reason
//! that its list has. *Unsupported*: one that would have an effect in a cluster and has none here.
//!
//! # Example
//! ```
//! use podvmm_manifest::{Options, parse};
//!
//! let text = "
//! apiVersion: v1
//! kind: Pod
//! metadata:
//!   name: demo
//! spec:
//!   containers:
//!   - name: main
//!     image: debian:12
//!     resources: {limits: {memory: 1e3Gi}}
//! ";
//! let rejected = parse(text, &Options::default()).unwrap_err();
//! assert_eq!(
//!     rejected.problems[0].to_string(),
//!     "spec.containers[0].resources.limits.memory (line 10:34): \"1e3Gi\" has an exponent and a \
//!      suffix: write one of them, such as 1e3 or 1Gi"
//! );
//! ```

mod expand;
pub mod given;
pub mod host_path;
mod names;
pub mod objects;
pub mod parse;
pub mod plan;
pub mod pod;
pub mod problem;
pub mod quantity;
mod reader;
pub mod schema;
mod yaml;

pub use objects::Objects;
pub use parse::{Manifest, Options, parse};
pub use pod::{Pod, Sandbox};
pub use problem::{Code, Place, Problem, Rejected, Severity};
pub use quantity::Quantity;
pub use yaml::MAX_BYTES;
