//! `podvmm wait`, `stop`, `kill` and `rm`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use sandbox::monitor::{ClientError, PodStore, PodView, Status, StoreError};
use sandbox::rundir::RunDirError;
use serde_json::json;

use super::{alive, each, store};
use crate::args::{Kill, Rm, Stop, Target, Wait};
use crate::check::print;

pub fn wait(args: &Wait, root: Option<&Path>) -> anyhow::Result<u8> {
    let store = store(root);
    Ok(each(&args.targets, |target| {
        let code = exit_code(&store, target)?;
        if args.json {
            let object =
                json!({ "pod": target.pod, "container": target.container, "exitCode": code });
            print(&format!("{object}\n"))?;
        } else {
            print(&format!("{code}\n"))?;
        }
        Ok(())
    }))
}

fn exit_code(store: &PodStore, target: &Target) -> anyhow::Result<u8> {
    let view = store.get(&target.pod)?;
    if view.is_alive() {
        match view.client().wait(target.container.as_deref()) {
            Ok(exit) => return Ok(exit.code),
            // It has ended, or its monitor has, between a look and the question.
            Err(ClientError::Gone | ClientError::Connect(_)) => {}
            Err(error) => return Err(error).context(format!("pod {}", target.pod)),
        }
    }
    let view = store.get(&target.pod)?;
    recorded_exit_code(&view, target)
}

fn recorded_exit_code(view: &PodView, target: &Target) -> anyhow::Result<u8> {
    let name = &view.name;
    let record = match (&view.record, view.status) {
        (Some(record), Status::Stopped) => record,
        _ => bail!(
            "pod {name} is {}: {}",
            view.status,
            view.reason.as_deref().unwrap_or("its end is unknown")
        ),
    };
    let Some(container) = &target.container else {
        return Ok(record.exit_code());
    };
    let Some(found) = record.container(container) else {
        bail!("pod {name} has no container {container:?}");
    };
    match found.exit {
        Some(exit) => Ok(exit.code),
        None => bail!("pod {name}: container {container} was ended with its pod"),
    }
}

pub fn stop(args: &Stop, root: Option<&Path>) -> anyhow::Result<u8> {
    let store = store(root);
    let grace = args.time.map(Duration::from_secs);
    Ok(each(&args.pods, |name| {
        let view = store.get(name)?;
        // To stop what has ended is no failure, as with other engines.
        if view.status != Status::Stopped {
            match alive(&store, name)?.client().stop(grace) {
                // It ended by itself meanwhile.
                Err(ClientError::Gone) if !is_alive(&store, name) => {}
                other => other.with_context(|| format!("pod {name}"))?,
            }
        }
        print(&format!("{name}\n"))?;
        Ok(())
    }))
}

fn is_alive(store: &PodStore, name: &str) -> bool {
    store.get(name).is_ok_and(|view| view.is_alive())
}

pub fn kill(args: &Kill, root: Option<&Path>) -> anyhow::Result<u8> {
    let store = store(root);
    Ok(each(&args.targets, |target| {
        let client = alive(&store, &target.pod)?.client();
        client
            .signal(target.container.as_deref(), args.signal)
            .with_context(|| format!("pod {}", target.pod))?;
        print(&format!("{}\n", target.pod))?;
        Ok(())
    }))
}

pub fn rm(args: &Rm, root: Option<&Path>) -> anyhow::Result<u8> {
    let store = store(root);
    let names = if args.all {
        let views = store.list()?.into_iter();
        let meant = views.filter(|view| args.force || !view.is_alive());
        meant.map(|view| view.name).collect()
    } else {
        args.pods.clone()
    };
    Ok(each(&names, |name| {
        match store.remove(name, args.force) {
            Err(StoreError::RunDir(RunDirError::NotFound(..))) if args.force => return Ok(()),
            other => other?,
        }
        print(&format!("{name}\n"))?;
        Ok(())
    }))
}
