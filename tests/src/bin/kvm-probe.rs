//! Says whether this machine's KVM can run pods: `kvm-probe [--json]`.
//!
//! Exits with 0 when it can, 1 when it cannot, 2 on wrong usage.

use std::error::Error;
use std::process::ExitCode;

use vmm::probe::{self, ProbeError, Speed};

fn main() -> ExitCode {
    let json = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--json" => true,
        _ => {
            eprintln!("usage: kvm-probe [--json]");
            return ExitCode::from(2);
        }
    };
    let measured = probe::measure();
    let verdict = match &measured {
        Ok(speed) => speed.verdict().map_err(|error| chain(&error)),
        Err(error) => Err(chain(error)),
    };
    if json {
        println!("{}", to_json(&measured, &verdict));
    } else {
        match (&verdict, &measured) {
            (Ok(()), Ok(speed)) => println!("/dev/kvm: usable ({})", figures(speed)),
            (Err(message), _) => println!("{message}"),
            (Ok(()), Err(_)) => unreachable!("a verdict needs a measurement"),
        }
    }
    ExitCode::from(u8::from(verdict.is_err()))
}

/// An error and its sources, as one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line += &format!(": {error}");
        source = error.source();
    }
    line
}

fn figures(speed: &Speed) -> String {
    format!(
        "{:.0} M instructions/s at CPL 0, {:.0} M at CPL 3, exit {:.1} us, VM created in {} us",
        speed.cpl0_mips,
        speed.cpl3_mips,
        speed.exit.as_secs_f64() * 1e6,
        speed.create_vm.as_micros(),
    )
}

fn to_json(
    measured: &Result<Speed, ProbeError>,
    verdict: &Result<(), String>,
) -> serde_json::Value {
    serde_json::json!({
        "usable": verdict.is_ok(),
        "message": verdict.as_ref().err(),
        "probe": measured.as_ref().ok().map(|speed| serde_json::json!({
            "create_vm_us": speed.create_vm.as_micros() as u64,
            "exit_us": speed.exit.as_secs_f64() * 1e6,
            "cpl0_mips": speed.cpl0_mips,
            "cpl3_mips": speed.cpl3_mips,
        })),
    })
}
