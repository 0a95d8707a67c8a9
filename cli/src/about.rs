//! `podvmm version`, `completions` and `man`: what podvmm says of itself.

use std::fs;
use std::io;

use anyhow::Context;
use clap::CommandFactory;
use serde_json::json;

use crate::args::{Args, Completions, Man, Version};
use crate::check::print;

pub fn version(args: &Version) -> anyhow::Result<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let agent = sandbox::AGENT_PROTOCOL_VERSION;
    let monitor = sandbox::monitor::protocol::VERSION;
    let record = sandbox::monitor::record::VERSION;
    if args.json {
        let object = json!({
            "version": version,
            "agentProtocol": agent,
            "monitorProtocol": monitor,
            "recordVersion": record,
        });
        print(&format!("{object:#}\n"))?;
    } else {
        print(&format!("podvmm {version}\n"))?;
        print(&format!("agent protocol   {agent}\n"))?;
        print(&format!("monitor protocol {monitor}\n"))?;
        print(&format!("record           {record}\n"))?;
    }
    Ok(0)
}

pub fn completions(args: &Completions) -> anyhow::Result<u8> {
    let mut command = Args::command();
    clap_complete::generate(args.shell, &mut command, "podvmm", &mut io::stdout());
    Ok(0)
}

/// One page for podvmm, and one for each verb.
pub fn man(args: &Man) -> anyhow::Result<u8> {
    let dir = &args.dir;
    let write = || {
        fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Args::command(), dir)
    };
    write().with_context(|| format!("{}: cannot be written", dir.display()))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn each_verb_has_a_page() {
        let dir = std::env::temp_dir().join(format!("podvmm-man-{}", std::process::id()));
        man(&Man { dir: dir.clone() }).unwrap();
        for name in ["podvmm", "podvmm-run", "podvmm-exec", "podvmm-rm"] {
            let page = fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{name}");
        }
        assert!(!dir.join("podvmm-monitor.1").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn shells_learn_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "podvmm", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("inspect"), "{shell}");
        }
    }
}
