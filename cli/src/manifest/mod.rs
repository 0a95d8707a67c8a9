//! `podvmm manifest check`: is this a manifest that podvmm takes, and how large would its VM be? What
//! `podvmm run -f` needs of it is here as well.

mod health;
mod host;
pub mod run;
mod volumes;
pub use volumes::default_data;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use manifest::pod::Amounts;
use manifest::{MAX_BYTES, Manifest, Objects, Options, Problem, Rejected, Sandbox, Severity};
use sandbox::sizing::{Limits, Profile, Rule, Size};
use serde_json::{Value, json};
use vmm::{MemorySize, VcpuCount};

use crate::check::print;

/// Status for a manifest that is not accepted.
const REJECTED: u8 = 1;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks a Kubernetes Pod manifest in full, and says how large the pod's VM would be
    Check(Check),
}

const EXAMPLES: &str = "\
Examples:
  podvmm manifest check pod.yaml
  kubectl get pod web -o yaml | podvmm manifest check - --ignore-unsupported
  podvmm manifest check pod.yaml --configmap web-conf=./conf --sizing aks-ga

All problems are told at once. Nothing is started.

Exit status: 0 accepted, 1 rejected, 2 wrong usage or an internal error.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Check {
    /// YAML or JSON with one Pod, and ConfigMaps and Secrets that it uses; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Prints everything as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reading: Reading,
}

/// How a manifest is read, and what its VM is like.
#[derive(Debug, Args)]
pub struct Reading {
    /// Makes fields that podvmm does not support warnings; they have no effect then
    #[arg(long)]
    pub ignore_unsupported: bool,
    /// Gives a ConfigMap: a directory's files are its keys, or a single file
    #[arg(long = "configmap", value_name = "NAME=PATH", value_parser = given)]
    pub config_maps: Vec<Given>,
    /// Gives a Secret, likewise
    #[arg(long = "secret", value_name = "NAME=PATH", value_parser = given)]
    pub secrets: Vec<Given>,
    /// The rule of the VM's size: aks-preview adds all limits to 1 vCPU and 2 GiB; with aks-ga limits
    /// take the place of 1 vCPU and 512 MiB
    #[arg(long, value_name = "PROFILE", default_value = "aks-preview")]
    pub sizing: Profile,
    /// vCPUs of a VM without limits [default: the profile's]
    #[arg(long, value_name = "N", value_parser = crate::args::vcpus)]
    pub base_cpus: Option<VcpuCount>,
    /// Memory of a VM without limits [default: the profile's]
    #[arg(long, value_name = "SIZE", value_parser = sandbox::config::parse_memory)]
    pub base_mem: Option<MemorySize>,
}

impl Reading {
    /// One of these options that was given, if any was.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--ignore-unsupported", self.ignore_unsupported),
            ("--configmap", !self.config_maps.is_empty()),
            ("--secret", !self.secrets.is_empty()),
            ("--sizing", self.sizing != Profile::default()),
            ("--base-cpus", self.base_cpus.is_some()),
            ("--base-mem", self.base_mem.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, is_given)| *is_given);
        given.next().map(|(name, _)| name)
    }
}

/// A name and the path of its data.
#[derive(Clone, Debug)]
pub struct Given {
    name: String,
    path: PathBuf,
}

fn given(text: &str) -> Result<Given, String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(Given {
            name: name.to_owned(),
            path: path.into(),
        }),
        _ => Err("must be NAME=PATH, such as web-conf=./conf".into()),
    }
}

/// What the manifest comes to.
struct Verdict {
    pod: String,
    sandbox: Sandbox,
    limits: Limits,
    rule: Rule,
    size: Result<Size, vmm::ConfigError>,
    warnings: Vec<Problem>,
}

/// Carries the command out, and gives the status.
pub fn run(command: &Command) -> anyhow::Result<u8> {
    let Command::Check(args) = command;
    let text = read(&args.file)?;
    let options = args.reading.options()?;
    let verdict = manifest::parse(&text, &options).map(|manifest| judge(&args.reading, manifest));
    let fine = matches!(&verdict, Ok(verdict) if verdict.size.is_ok());
    let text = match args.json {
        true => serde_json::to_string_pretty(&as_json(&verdict))? + "\n",
        false => as_text(args, &verdict),
    };
    print(&text)?;
    Ok(if fine { 0 } else { REJECTED })
}

fn read(file: &Path) -> anyhow::Result<String> {
    let name = file.display();
    let input: Box<dyn Read> = match file.as_os_str().as_encoded_bytes() {
        b"-" => Box::new(io::stdin()),
        _ => Box::new(File::open(file).with_context(|| format!("{name} cannot be opened"))?),
    };
    // One byte more than is taken, which the parser then tells of.
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES)?.saturating_add(1);
    let read = input.take(limit).read_to_end(&mut bytes);
    read.with_context(|| format!("{name} cannot be read"))?;
    if bytes.len() > MAX_BYTES {
        // It may end within a character, and its length is what is wrong with it.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))
}

impl Reading {
    fn options(&self) -> anyhow::Result<Options> {
        Ok(Options {
            ignore_unsupported: self.ignore_unsupported,
            objects: self.objects()?,
        })
    }

    fn objects(&self) -> anyhow::Result<Objects> {
        let mut objects = Objects::default();
        for (option, given, all) in [
            ("--configmap", &self.config_maps, &mut objects.config_maps),
            ("--secret", &self.secrets, &mut objects.secrets),
        ] {
            for Given { name, path } in given {
                let data =
                    manifest::given::read(path).with_context(|| format!("{option} {name}"))?;
                all.insert(name.clone(), data);
            }
        }
        Ok(objects)
    }

    fn rule(&self) -> Rule {
        let mut rule = Rule::of(self.sizing);
        rule.base.vcpus = self
            .base_cpus
            .map_or(rule.base.vcpus, |cpus| cpus.get().into());
        rule.base.memory = self.base_mem.map_or(rule.base.memory, MemorySize::bytes);
        rule
    }
}

fn judge(reading: &Reading, manifest: Manifest) -> Verdict {
    let rule = reading.rule();
    let limits = limits(&manifest.pod);
    Verdict {
        pod: manifest.pod.name,
        sandbox: manifest.pod.sandbox,
        limits,
        rule,
        size: rule.size(limits),
        warnings: manifest.warnings,
    }
}

/// What all containers of a pod may use together.
fn limits(pod: &manifest::Pod) -> Limits {
    let all = |containers: &[manifest::pod::Container]| -> Vec<Limits> {
        let limits = containers
            .iter()
            .map(|container| container.resources.limits);
        limits.map(of_amounts).collect()
    };
    Limits::of_pod(&all(&pod.containers), &all(&pod.init_containers))
}

fn of_amounts(amounts: Amounts) -> Limits {
    Limits {
        cpu_millis: amounts.cpu_millis,
        memory: amounts.memory,
    }
}

fn as_text(args: &Check, verdict: &Result<Verdict, Rejected>) -> String {
    let file = args.file.display();
    let verdict = match verdict {
        Ok(verdict) => verdict,
        Err(rejected) => return format!("{file} is rejected:\n{rejected}\n"),
    };
    let mut text = String::new();
    for warning in &verdict.warnings {
        text += &format!("warning: {warning}\n");
    }
    let pod = &verdict.pod;
    text += &match &verdict.sandbox {
        Sandbox::Asked(class) => {
            format!("pod {pod} is accepted, and asks for a VM of its own (runtime class {class})\n")
        }
        Sandbox::NotAsked => format!(
            "pod {pod} is accepted, and asks for no sandbox (no runtimeClassName): a cluster would run it on the node's kernel\n"
        ),
    };
    let [cpus, memory] = verdict.rule.reasons(verdict.limits);
    text += &match &verdict.size {
        Ok(size) => format!(
            "vCPUs   {}: {cpus}\nmemory  {} MiB: {memory}\n",
            size.vcpus.get(),
            size.memory.bytes() >> 20,
        ),
        Err(error) => format!("but no VM is as large: {error}\nvCPUs   {cpus}\nmemory  {memory}\n"),
    };
    text
}

fn as_json(verdict: &Result<Verdict, Rejected>) -> Value {
    let problems = |all: &[Problem]| all.iter().map(problem).collect::<Vec<_>>();
    match verdict {
        Err(rejected) => json!({
            "verdict": "rejected",
            "problems": problems(&rejected.problems),
            "more": rejected.more,
        }),
        Ok(verdict) => {
            let [cpus, memory] = verdict.rule.reasons(verdict.limits);
            let size = verdict.size.as_ref().ok();
            json!({
                "verdict": if size.is_some() { "accepted" } else { "too-large" },
                "pod": verdict.pod,
                "runtimeClass": match &verdict.sandbox {
                    Sandbox::Asked(class) => Some(class),
                    Sandbox::NotAsked => None,
                },
                "sizing": {
                    "profile": verdict.rule.profile.name(),
                    "vcpus": size.map(|size| size.vcpus.get()),
                    "memory": size.map(|size| size.memory.bytes()),
                    "reasons": { "vcpus": cpus, "memory": memory },
                },
                "problems": problems(&verdict.warnings),
            })
        }
    }
}

fn problem(problem: &Problem) -> Value {
    json!({
        "severity": match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "code": problem.code.name(),
        "path": problem.path,
        "line": problem.place.line,
        "column": problem.place.column,
        "message": problem.message,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn args(line: &[&str]) -> Check {
        let line = ["manifest", "check"].iter().chain(line);
        let Command::Check(args) = Line::try_parse_from(line).unwrap().command;
        args
    }

    fn verdict(args: &Check, text: &str) -> Result<Verdict, Rejected> {
        manifest::parse(text, &Options::default()).map(|manifest| judge(&args.reading, manifest))
    }

    const UNTRUSTED: &str = include_str!("../../../tests/cri/pods/untrusted.yaml");
    const TRUSTED: &str = include_str!("../../../tests/cri/pods/trusted.yaml");

    #[test]
    fn a_verdict_has_the_size_and_its_reasons() {
        let args = args(&["a.yaml"]);
        assert_eq!(
            as_text(&args, &verdict(&args, UNTRUSTED)),
            "pod untrusted is accepted, and asks for a VM of its own (runtime class kata-mshv-vm-isolation)\n\
             vCPUs   1: 1 for the VM itself; no container has a limit of CPUs\n\
             memory  2048 MiB: 2048 MiB for the VM itself; no container has a limit of memory\n"
        );
        let text = as_text(&args, &verdict(&args, TRUSTED));
        assert!(text.starts_with("pod trusted is accepted, and asks for no sandbox"));
    }

    #[test]
    fn the_rule_can_be_chosen() {
        let limits = "resources: {limits: {cpu: 2500m, memory: 300Mi}}";
        let text = TRUSTED.replace("    image:", &format!("    {limits}\n    image:"));
        for (line, vcpus, memory) in [
            (&["-"][..], 4, 2348_u64),
            (&["-", "--sizing", "aks-ga"], 3, 300),
            (&["-", "--base-cpus", "2", "--base-mem", "128M"], 5, 428),
        ] {
            let json = as_json(&verdict(&args(line), &text));
            assert_eq!(json["sizing"]["vcpus"], vcpus, "{line:?}");
            assert_eq!(json["sizing"]["memory"], json!(memory << 20));
            assert_eq!(json["verdict"], "accepted");
        }
        let json = as_json(&verdict(&args(&["-"]), &text.replace("2500m", "64")));
        assert_eq!(json["verdict"], "too-large");
    }

    #[test]
    fn problems_are_data() {
        let args = args(&["a.yaml", "--json"]);
        let verdict = verdict(
            &args,
            &UNTRUSTED.replace("runtimeClassName", "runtimeclass"),
        );
        assert_eq!(
            as_json(&verdict),
            json!({
                "verdict": "rejected",
                "more": 0,
                "problems": [{
                    "severity": "error",
                    "code": "unknown-field",
                    "path": "spec.runtimeclass",
                    "line": 6,
                    "column": 3,
                    "message": "PodSpec has no such field; remove it",
                }],
            })
        );
        assert!(
            as_text(&args, &verdict)
                .starts_with("a.yaml is rejected:\nspec.runtimeclass (line 6:3)")
        );
    }

    #[test]
    fn names_and_paths_are_given_together() {
        for text in ["", "a", "=a", "a="] {
            assert!(given(text).is_err(), "{text}");
        }
        assert_eq!(given("a=b=c").unwrap().path, PathBuf::from("b=c"));
    }
}
