//! What kubelet does to pods, case by case, against each runtime handler.
//!
//! Arguments and output are libtest's: names are `handler::subject::case`, words choose those that
//! contain one of them, or with `--exact` those that are one of them. Besides, `--describe` prints a
//! line for each case, with tabs between: `cri-case`, subject, case, what it is about, and for a
//! handler that is meant to do otherwise, its name and what it does.
//!
//! The environment says the rest:
//!
//! - `PODVMM_CRI_HANDLERS`: handlers to run the cases against (`runc,podvmm`)
//! - `PODVMM_CRI_IMAGES`: the archive of the tests' images (build/cri/images.tar)
//! - `PODVMM_CRI_SHIMS`: where `containerd-shim-podvmm-v2` is (target/…/release)
//! - `PODVMM_GUEST_DIR`: podvmm's guest (build/guest)
//!
//! containerd is started before the first case and stopped after the last one. A case fails if it
//! leaves anything behind on the node.

mod case;
mod crowd;
mod ctr;
mod life;
mod manifests;
mod network;
mod requests;
mod resources;
mod security;
mod stats;
mod storage;
mod streams;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Conclusion, Trial};
use podvmm_cri_tests::alone::{self, Role};
use podvmm_cri_tests::bed::{Assets, Bed};
use podvmm_cri_tests::{Handler, pod};

use case::{Case, Run};

/// All cases, by subject.
const SUBJECTS: [(&str, &[Case]); 12] = [
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
    ("requests", requests::CASES),
    (CROWD, crowd::CASES),
];
/// The subject that is not in the table, as its cases do not run with all others.
const CROWD: &str = "crowd";

fn main() -> ExitCode {
    let (words, options): (Vec<_>, Vec<_>) = split_words(std::env::args().skip(1).collect());
    if options.iter().any(|option| option == "--describe") {
        describe();
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_iter(std::iter::once("cri".to_owned()).chain(options));
    match run(arguments, &words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Filters apart from options: libtest takes several filters, libtest_mimic one.
fn split_words(arguments: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut words, mut options) = (Vec::new(), Vec::<String>::new());
    for argument in arguments {
        let value = options.last().is_some_and(|last| {
            [
                "--skip",
                "--format",
                "--color",
                "--logfile",
                "--test-threads",
            ]
            .contains(&last.as_str())
        });
        if value || argument.starts_with('-') {
            options.push(argument);
        } else {
            words.push(argument);
        }
    }
    (words, options)
}

fn describe() {
    for (subject, cases) in SUBJECTS {
        for case in cases.iter().filter(|_| subject != CROWD) {
            let (handler, what) = case
                .unlike
                .map_or(("", ""), |(handler, what)| (handler.name, what));
            println!(
                "cri-case\t{subject}\t{}\t{}\t{handler}\t{what}",
                case.name, case.about
            );
        }
    }
}

fn run(mut arguments: Arguments, words: &[String]) -> Result<u8> {
    // What a case leaves behind must be its own.
    arguments.test_threads = Some(1);
    let chosen = choose(words, arguments.exact)?;
    if arguments.list || chosen.is_empty() {
        let trials = chosen
            .into_iter()
            .map(|chosen| chosen.trial(None))
            .collect();
        return Ok(conclude(&libtest_mimic::run(&arguments, trials)));
    }
    if let Role::Done(code) = alone::enter()? {
        return Ok(code);
    }
    let assets = Assets::from_environment()?;
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
    run.bed.stop()?;
    if !conclusion.has_failed() {
        pod::remove_cgroups()?;
    }
    Ok(conclude(&conclusion))
}

/// libtest's exit status.
fn conclude(conclusion: &Conclusion) -> u8 {
    if conclusion.has_failed() { 101 } else { 0 }
}

/// A case and the handler to run it against.
struct Chosen {
    name: String,
    case: &'static Case,
    handler: Handler,
}

impl Chosen {
    fn trial(self, run: Option<Arc<Run>>) -> Trial {
        Trial::test(self.name, move || match run {
            Some(run) => run.case(self.case, self.handler),
            None => Err("it was only to be listed".into()),
        })
    }
}

fn choose(words: &[String], exact: bool) -> Result<Vec<Chosen>> {
    let handlers = variable("PODVMM_CRI_HANDLERS").unwrap_or_else(|| "runc,podvmm".to_owned());
    let handlers = Handler::list(&handlers).context("PODVMM_CRI_HANDLERS")?;
    let mut chosen = Vec::new();
    for (subject, cases) in SUBJECTS {
        for case in cases {
            chosen.extend(handlers.iter().map(|&handler| Chosen {
                name: format!("{handler}::{subject}::{}", case.name),
                case,
                handler,
            }));
        }
    }
    if !words.is_empty() {
        chosen.retain(|chosen| {
            words.iter().any(|word| {
                if exact {
                    chosen.name == *word
                } else {
                    chosen.name.contains(word)
                }
            })
        });
    }
    Ok(chosen)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
