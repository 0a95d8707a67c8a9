//! A case, and what running it comes to.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::Failed;
use podvmm_cri_tests::Handler;
use podvmm_cri_tests::bed::{Assets, Bed};
use podvmm_cri_tests::pod::{Node, Pod};
use podvmm_cri_tests::spec::{ContainerSpec, PodSpec};
use podvmm_cri_tests::traces::Traces;

/// One case.
pub struct Case {
    /// Its name, which may be part of a command line.
    pub name: &'static str,
    /// What a handler does that passes it, in the words of the comparison.
    pub about: &'static str,
    /// The case itself.
    pub run: fn(Node<'_>) -> Result<Outcome>,
}

/// How a handler passed a case.
pub enum Outcome {
    /// It does what is asked.
    Works,
    /// It is meant to do otherwise, and does; this is why.
    Differs(&'static str),
}

/// A run of cases on one node.
pub struct Run {
    /// The node.
    pub bed: Bed,
    assets: Assets,
    results: Mutex<Vec<String>>,
}

/// How much of containerd's log a failure shows.
const LOG_LINES: usize = 40;

impl Run {
    pub fn new(bed: Bed, assets: Assets) -> Self {
        Self {
            bed,
            assets,
            results: Mutex::default(),
        }
    }

    /// The first pod makes directories and a bridge that stay, whatever runtime it is for.
    pub fn first_pod(&self) -> Result<()> {
        let pod = Pod::run(self.bed.cri(), "", PodSpec::new("first"))?;
        pod.start(ContainerSpec::idle())?;
        pod.remove()
    }

    /// Runs a case and looks at what it left behind.
    pub fn case(&self, subject: &str, case: &Case, handler: Handler) -> Result<(), Failed> {
        let log = self.bed.log_end();
        let before = Traces::now();
        let node = Node {
            bed: &self.bed,
            assets: &self.assets,
            handler,
        };
        let outcome = (case.run)(node);
        let left_behind = before.expect_no_more();
        let (word, why) = match (&outcome, &left_behind) {
            (Ok(Outcome::Works), Ok(())) => ("works", ""),
            (Ok(Outcome::Differs(why)), Ok(())) => ("differs", *why),
            _ => ("fails", ""),
        };
        self.results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(format!(
                "cri-result\t{subject}\t{}\t{}\t{handler}\t{word}\t{why}",
                case.name, case.about,
            ));
        let mut complaints = Vec::new();
        if let Err(error) = outcome {
            complaints.push(format!("handler {handler}: {error:#}"));
        }
        if let Err(error) = left_behind {
            complaints.push(format!("handler {handler}: {error:#}"));
        }
        if complaints.is_empty() {
            return Ok(());
        }
        complaints.push(format!(
            "containerd's log of this case ends in:\n{}",
            self.bed.log_since(log, LOG_LINES)
        ));
        // At once, for runs that are cut short.
        eprintln!("\n{subject}::{}: {}", case.name, complaints.join("\n"));
        Err(Failed::without_message())
    }

    /// Prints a line for each case that was run.
    pub fn print_results(&self) {
        for line in &*self.results.lock().unwrap_or_else(PoisonError::into_inner) {
            println!("{line}");
        }
    }
}
