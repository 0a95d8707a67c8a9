//! A node's labels: whether it qualifies for pods, what stands in the way, and what separates them.
//!
//! Each label is always there, so that a newer set leaves nothing of an older one.

use crate::check::Status;
use crate::report::{Report, Verdict};

/// Whether the machine runs pods: `true` or `false`.
pub const READY: &str = "podvmm.dev/ready";
/// The id of the first check that failed, or `none`.
pub const FAILED_CHECK: &str = "podvmm.dev/failed-check";
/// What is below a pod's machine: see [`isolation`].
pub const ISOLATION: &str = "podvmm.dev/isolation";

/// The labels that a machine gets as a node, in a fixed order.
#[must_use]
pub fn labels(report: &Report) -> [(&'static str, String); 3] {
    let failed = report.with_status(Status::Fail).next();
    [
        (READY, (report.verdict == Verdict::Ready).to_string()),
        (
            FAILED_CHECK,
            failed.map_or("none", |finding| finding.id).to_owned(),
        ),
        (ISOLATION, isolation(report).to_owned()),
    ]
}

/// `hardware`: pods' machines are the processor's. `nested`: they are in a virtual machine, whose
/// hypervisor is trusted too. `emulated`: everything is, which is good for trials only. `none`: there
/// are no pods.
fn isolation(report: &Report) -> &'static str {
    match report.host.hypervisor.as_deref() {
        _ if report.verdict == Verdict::NotReady => "none",
        None => "hardware",
        Some(name) if name == crate::place::Hypervisor::Tcg.to_string() => "emulated",
        Some(_) => "nested",
    }
}
