//! A manifest's probes and hooks as a pod's plan has them.

use manifest::pod::{self, ProbeAction};
use sandbox::monitor::health::{Health, Hook, HttpGet, Probe, Question, Timing};

/// Those of one container.
pub fn of(container: &manifest::plan::ContainerPlan) -> Health {
    Health {
        startup: container.startup.as_ref().map(probe),
        liveness: container.liveness.as_ref().map(probe),
        readiness: container.readiness.as_ref().map(probe),
        post_start: container.post_start.as_ref().map(hook),
        pre_stop: container.pre_stop.as_ref().map(hook),
    }
}

fn probe(probe: &pod::Probe) -> Probe {
    let timing = probe.timing;
    Probe {
        question: match &probe.action {
            ProbeAction::Exec(command) => Question::Exec(command.clone()),
            ProbeAction::Http(get) => Question::Http(http_get(get)),
            ProbeAction::Tcp { host, port } => Question::Tcp {
                host: host.clone(),
                port: *port,
            },
        },
        timing: Timing {
            initial_delay: timing.initial_delay,
            period: timing.period,
            timeout: timing.timeout,
            successes: timing.successes,
            failures: timing.failures,
        },
        grace: probe.grace,
    }
}

fn hook(hook: &pod::Hook) -> Hook {
    match hook {
        pod::Hook::Exec(command) => Hook::Exec(command.clone()),
        pod::Hook::Http(get) => Hook::Http(http_get(get)),
        pod::Hook::Sleep(time) => Hook::Sleep(*time),
    }
}

fn http_get(get: &pod::HttpGet) -> HttpGet {
    HttpGet {
        tls: get.tls,
        host: get.host.clone(),
        port: get.port,
        path: get.path.clone(),
        headers: get.headers.clone(),
    }
}
