//! End-to-end tests: what a user of `podvmm run` is promised, seen from the outside.
//!
//! They spawn the release binary (`PODVMM_BIN`) with the guest of `PODVMM_GUEST_DIR`, and need root
//! and a usable KVM: `make test` runs them on this machine or in the lab. Anywhere else each of
//! them fails and says so; none passes without having run a pod.
//!
//! - `harness`: one pod run, its outcome, and the check that it left nothing behind
//! - `rootfs`: directories that become a container's root
//! - the rest: cases by subject

mod bad_input;
mod blocks;
mod check;
mod cni;
mod command;
mod deaths;
mod files;
mod growth;
mod harness;
mod hostile;
mod images;
mod install;
mod jail;
mod left_behind;
mod life;
mod manifests;
mod memory;
mod network;
mod no_kvm;
mod pods;
mod ports;
mod rootfs;
mod streams;
mod terminal;
mod volumes;
