//! What kubelet does to pods, case by case, against each runtime handler.
//!
//! Like a test program of libtest: names are `handler::subject::case`, `--list` lists them, a word
//! filters them. The environment chooses more coarsely:
//!
//! - `PODVMM_CRI_HANDLERS`: handlers to run the cases against (`runc,podvmm`)
//! - `PODVMM_CRI_SUBJECTS`: subjects, separated by spaces (all)
//! - `PODVMM_CRI_IMAGES`: the archive of the tests' images (build/cri/images.tar)
//! - `PODVMM_CRI_SHIMS`: where `containerd-shim-podvmm-v2` is (target/…/release)
//! - `PODVMM_GUEST_DIR`: podvmm's guest (build/guest)
//!
//! containerd is started before the first case and stopped after the last one. A case fails if it
//! leaves anything behind on the node. At the end comes a line for each case that
//! `tests/tools/cri-table` makes the comparison of, with tabs between its words:
//! `cri-result`, subject, case, what it is about, handler, outcome, explanation.

mod case;
mod ctr;
mod life;
mod manifests;
mod network;
mod resources;
mod security;
mod stats;
mod storage;
mod streams;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Trial};
use podvmm_cri_tests::alone::{self, Role};
use podvmm_cri_tests::bed::{Assets, Bed};
use podvmm_cri_tests::{Handler, pod, spec};

use case::{Case, Run};

/// All cases, by subject.
const SUBJECTS: [(&str, &[Case]); 10] = [
    ("manifests", manifests::CASES),
    ("network", network::CASES),
    ("streams", streams::CASES),
    ("stats", stats::CASES),
    ("resources", resources::CASES),
    ("storage", storage::CASES),
    ("security", security::CASES),
    ("life", life::CASES),
    ("faults", life::FAULTS),
    ("ctr", ctr::CASES),
];

fn main() -> ExitCode {
    match run(Arguments::from_args()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> Result<u8> {
    // What a case leaves behind must be its own.
    arguments.test_threads = Some(1);
    let chosen = choose()?;
    if arguments.list {
        let trials = chosen
            .into_iter()
            .map(|chosen| chosen.trial(None))
            .collect();
        return Ok(conclude(&libtest_mimic::run(&arguments, trials)));
    }
    if let Role::Done(code) = alone::enter()? {
        return Ok(code);
    }
    let assets = assets()?;
    pod::prepare_cgroups()?;
    let bed = Bed::start(&assets).context("the node could not be set up")?;
    let run = Arc::new(Run::new(bed, assets));
    run.first_pod()
        .context("the first pod of the node, by its default runtime")?;
    let trials = chosen
        .into_iter()
        .map(|chosen| chosen.trial(Some(run.clone())))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    run.print_results();
    run.bed.stop()?;
    pod::remove_cgroups()?;
    Ok(conclude(&conclusion))
}

fn conclude(conclusion: &libtest_mimic::Conclusion) -> u8 {
    if conclusion.has_failed() { 101 } else { 0 }
}

/// A case and the handler to run it against.
struct Chosen {
    subject: &'static str,
    case: &'static Case,
    handler: Handler,
}

impl Chosen {
    fn trial(self, run: Option<Arc<Run>>) -> Trial {
        let name = format!("{}::{}::{}", self.handler, self.subject, self.case.name);
        Trial::test(name, move || match run {
            Some(run) => Ok(run.case(self.subject, self.case, self.handler)?),
            None => Err("it was only to be listed".into()),
        })
    }
}

fn choose() -> Result<Vec<Chosen>> {
    let handlers = variable("PODVMM_CRI_HANDLERS").unwrap_or_else(|| "runc,podvmm".to_owned());
    let handlers = Handler::list(&handlers).context("PODVMM_CRI_HANDLERS")?;
    let subjects = variable("PODVMM_CRI_SUBJECTS");
    if let Some(unknown) = subjects
        .iter()
        .flat_map(|names| names.split_whitespace())
        .find(|name| SUBJECTS.iter().all(|(subject, _)| subject != name))
    {
        anyhow::bail!(
            "PODVMM_CRI_SUBJECTS: there is no subject {unknown:?}; there are: {}",
            SUBJECTS.map(|(subject, _)| subject).join(" "),
        );
    }
    let mut chosen = Vec::new();
    for (subject, cases) in SUBJECTS {
        let wanted = subjects
            .as_ref()
            .is_none_or(|names| names.split_whitespace().any(|name| name == subject));
        for case in cases.iter().filter(|_| wanted) {
            chosen.extend(handlers.iter().map(|&handler| Chosen {
                subject,
                case,
                handler,
            }));
        }
    }
    Ok(chosen)
}

fn assets() -> Result<Assets> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("the crate is two folders below the repository")?;
    let path = |name, default: &str| {
        variable(name).map_or_else(|| repository.join(default), PathBuf::from)
    };
    let assets = Assets {
        images: path("PODVMM_CRI_IMAGES", "build/cri/images.tar"),
        shims: path(
            "PODVMM_CRI_SHIMS",
            "target/x86_64-unknown-linux-gnu/release",
        ),
        guest: path("PODVMM_GUEST_DIR", "build/guest"),
    };
    anyhow::ensure!(
        assets.images.exists(),
        "{} is missing; `make cri` builds it with the image {} and others",
        assets.images.display(),
        spec::UBUNTU,
    );
    Ok(assets)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
