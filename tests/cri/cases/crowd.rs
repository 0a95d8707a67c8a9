//! Many pods. Those of [`CASES`] take long, and run only where they are asked for.

use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, ensure};
use podvmm_cri_tests::pod::{Container, Node, Pod};
use podvmm_cri_tests::spec::ContainerSpec;
use podvmm_cri_tests::traces::Traces;

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new(
        "twenty_at_once",
        "20 pods start at the same time, and end at the same time",
        twenty_at_once,
    ),
    Case::new(
        "in_sequence",
        "200 pods, one after the other, leave no trace",
        in_sequence,
    ),
];

/// How many pods `in_sequence` has, where it is not this variable that says so.
const SEQUENCE: usize = 200;
const SEQUENCE_VARIABLE: &str = "PODVMM_CRI_SEQUENCE";

/// What all threads of a scope came to; all are waited for.
fn joined<T>(threads: Vec<ScopedJoinHandle<'_, Result<T>>>) -> Result<Vec<T>> {
    let results: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
    results
        .into_iter()
        .map(|result| result.ok().context("a thread panicked")?)
        .collect()
}

/// So many pods start at the same time, run at the same time, and end at the same time.
pub fn at_once(node: Node<'_>, count: usize) -> Result<()> {
    let start = |number: usize| -> Result<(Pod, Container)> {
        let script = format!("echo pod {number}; trap 'exit 0' TERM; sleep 1000000 & wait");
        node.run(&format!("many-{number}"), ContainerSpec::sh(&script))
    };
    let pods = thread::scope(|scope| {
        joined(
            (0..count)
                .map(|number| scope.spawn(move || start(number)))
                .collect(),
        )
    })?;
    let mut addresses = Vec::new();
    for (number, (pod, container)) in pods.iter().enumerate() {
        container.has_logged(&format!("pod {number}\n"))?;
        addresses.push(pod.ip()?);
    }
    addresses.sort();
    addresses.dedup();
    ensure!(addresses.len() == count, "{addresses:?}");
    thread::scope(|scope| {
        joined(
            pods.into_iter()
                .map(|(pod, _)| scope.spawn(move || pod.remove()))
                .collect(),
        )
    })?;
    Ok(())
}

fn twenty_at_once(node: Node<'_>) -> Result<()> {
    at_once(node, 20)
}

fn in_sequence(node: Node<'_>) -> Result<()> {
    let count = match std::env::var(SEQUENCE_VARIABLE) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{SEQUENCE_VARIABLE}={text}: is no number of pods"))?,
        Err(_) => SEQUENCE,
    };
    let before = Traces::now();
    for number in 1..=count {
        let script = format!("echo {number}");
        let (pod, container) = node
            .run("sequence", ContainerSpec::sh(&script))
            .with_context(|| format!("pod {number}"))?;
        container.has_logged(&format!("{number}\n"))?;
        pod.remove().with_context(|| format!("pod {number}"))?;
        before
            .expect_no_more()
            .with_context(|| format!("after pod {number}"))?;
    }
    Ok(())
}
