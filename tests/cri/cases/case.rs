//! A case, and what running it comes to.

use std::io::Write;

use anyhow::Result;
use libtest_mimic::Failed;
use podvmm_cri_tests::Handler;
use podvmm_cri_tests::bed::{Assets, Bed};
use podvmm_cri_tests::pod::{Node, Pod};
use podvmm_cri_tests::spec::{ContainerSpec, PodSpec};
use podvmm_cri_tests::traces::Traces;

/// One case.
pub struct Case {
    /// Its name, by which it is chosen.
    pub name: &'static str,
    /// What a handler does that passes it, in the words of the comparison.
    pub about: &'static str,
    /// Which handler is meant to do otherwise, and what it does, which is what the case then asserts.
    pub unlike: Option<(Handler, &'static str)>,
    run: fn(Node<'_>) -> Result<()>,
}

impl Case {
    pub const fn new(
        name: &'static str,
        about: &'static str,
        run: fn(Node<'_>) -> Result<()>,
    ) -> Self {
        Self {
            name,
            about,
            unlike: None,
            run,
        }
    }

    pub const fn unlike(self, handler: Handler, what_it_does: &'static str) -> Self {
        Self {
            unlike: Some((handler, what_it_does)),
            ..self
        }
    }
}

/// A run of cases on one node.
pub struct Run {
    /// The node.
    pub bed: Bed,
    assets: Assets,
}

/// How much of containerd's log a failure shows.
const LOG_LINES: usize = 40;

impl Run {
    pub fn new(bed: Bed, assets: Assets) -> Self {
        Self { bed, assets }
    }

    /// The first pod makes directories and a bridge that stay, whatever runtime it is for.
    pub fn first_pod(&self) -> Result<()> {
        let pod = Pod::run(self.bed.cri(), "", PodSpec::new("first"))?;
        pod.start(ContainerSpec::idle())?;
        pod.remove()
    }

    /// Runs a case and looks at what it left behind.
    pub fn case(&self, case: &Case, handler: Handler) -> Result<(), Failed> {
        let log = self.bed.log_end();
        let before = Traces::now();
        let result = (case.run)(Node {
            bed: &self.bed,
            assets: &self.assets,
            handler,
        });
        let complaints: Vec<_> = [result, before.expect_no_more()]
            .into_iter()
            .filter_map(Result::err)
            .map(|error| format!("handler {handler}: {error:#}"))
            .collect();
        if complaints.is_empty() {
            return Ok(());
        }
        // At once and not with all others at the end, for runs that are cut short.
        println!(
            "\n{}: {}\ncontainerd's log of this case ends in:\n{}",
            case.name,
            complaints.join("\n"),
            self.bed.log_since(log, LOG_LINES),
        );
        std::io::stdout().flush()?;
        Err(Failed::without_message())
    }
}
