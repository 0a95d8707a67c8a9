//! `podvmm ps`.

use std::path::Path;

use sandbox::monitor::{ContainerPhase, PodRecord, PodView, Status};
use serde_json::{Value, json};

use super::table::{Table, ago, span};
use crate::args::Ps;
use crate::check::print;

/// Longest command that is shown.
const MAX_COMMAND: usize = 30;

pub fn ps(args: &Ps, root: Option<&Path>) -> anyhow::Result<u8> {
    let mut views = super::store(root).list()?;
    views.retain(|view| args.all || !matches!(view.status, Status::Stopped | Status::Dead));
    if args.json {
        let pods: Vec<_> = views.iter().map(summary).collect();
        print(&format!("{}\n", serde_json::to_string_pretty(&pods)?))?;
    } else if args.quiet {
        for view in &views {
            print(&format!("{}\n", view.name))?;
        }
    } else {
        print(&table(&views).text())?;
    }
    Ok(0)
}

fn table(views: &[PodView]) -> Table {
    let mut table = Table::new(&[
        "POD", "STATUS", "READY", "RESTARTS", "CREATED", "PORTS", "COMMAND",
    ]);
    for view in views {
        let record = view.record.as_ref();
        let of_record = |cell: fn(&PodRecord) -> String| record.map_or("-".into(), cell);
        table.push(vec![
            view.name.clone(),
            status(view),
            record.map_or("-".into(), |record| {
                let all = || record.containers.iter().filter(|c| !c.init);
                let ready = all().filter(|c| c.ready);
                // What a dead monitor has written down last runs no more.
                let ready = if view.is_alive() { ready.count() } else { 0 };
                format!("{ready}/{}", all().count())
            }),
            of_record(|record| {
                let restarts: u32 = record.containers.iter().map(|c| c.restarts).sum();
                restarts.to_string()
            }),
            of_record(|record| ago(record.created)),
            ports(view),
            of_record(command),
        ]);
    }
    table
}

/// What a pod is doing, in a few words.
fn status(view: &PodView) -> String {
    let record = view.record.as_ref();
    let reason = view.reason.as_deref().unwrap_or_default();
    match view.status {
        Status::Creating => "Creating".into(),
        Status::Running => {
            let up = record.and_then(|record| record.started);
            let up = up.map_or(String::new(), |started| format!(" {}", span(started.age())));
            let trouble = record.and_then(trouble);
            let trouble = trouble.map_or(String::new(), |trouble| format!(" ({trouble})"));
            format!(
                "Up{up}{trouble}{}",
                record.map_or(String::new(), oom_killed)
            )
        }
        Status::Stopping => "Stopping".into(),
        Status::Stopped => {
            let when = record.and_then(|record| record.ended).map(ago);
            let when = when.unwrap_or_default();
            match record {
                Some(record) if record.reason.is_none() => {
                    let how = oom_killed(record);
                    format!("Exited ({}) {when}{how}", record.exit_code())
                }
                _ => format!("Failed {when}: {}", first_line(reason)),
            }
        }
        Status::Dead => format!("Dead: {}", first_line(reason)),
        Status::Unmanaged => format!("Unmanaged: {}", first_line(reason)),
    }
}

/// Which containers ran out of memory the last time that they have ended.
fn oom_killed(record: &PodRecord) -> String {
    let containers = record.containers.iter();
    let killed = containers.filter(|c| c.exit.is_some_and(|exit| exit.oom_killed));
    let names: Vec<_> = killed.map(|container| container.name.as_str()).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!(" (OOMKilled: {})", names.join(", ")),
    }
}

/// What is wrong with a pod that runs: that of its containers which is furthest from being ready.
fn trouble(record: &PodRecord) -> Option<String> {
    let containers = || record.containers.iter().filter(|c| !c.ready);
    let again = containers().find(|c| c.phase == ContainerPhase::Waiting && c.exit.is_some());
    let running = containers().find(|c| c.phase == ContainerPhase::Running && !c.init);
    let (container, word) = match (again, running) {
        (Some(container), _) => (container, "restarting"),
        (None, Some(container)) => (container, "not ready"),
        (None, None) => return None,
    };
    let complaint = container.complaint.as_deref().map(first_line);
    Some(match complaint {
        Some(complaint) => format!("{word}: {}: {complaint}", container.name),
        None => word.to_owned(),
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Published ports, as long as they are.
fn ports(view: &PodView) -> String {
    let record = view.record.as_ref().filter(|_| view.is_alive());
    let ports = record.map_or(&[][..], |record| &record.ports);
    if ports.is_empty() {
        return "-".into();
    }
    let shown = ports.iter().map(|port| {
        let (host, pod) = (port.host, port.pod);
        match host.ip().is_unspecified() {
            true => format!("{}->{pod}", host.port()),
            false => format!("{host}->{pod}"),
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The first container's command.
fn command(record: &PodRecord) -> String {
    let first = record.containers.iter().find(|c| !c.init);
    let text = first.map(|c| c.command.join(" ")).unwrap_or_default();
    if text.chars().count() <= MAX_COMMAND {
        return format!("\"{text}\"");
    }
    let short: String = text.chars().take(MAX_COMMAND - 1).collect();
    format!("\"{short}…\"")
}

/// A pod as JSON, short.
fn summary(view: &PodView) -> Value {
    let record = view.record.as_ref();
    json!({
        "name": view.name,
        "status": view.status,
        "reason": view.reason,
        "created": record.map(|record| record.created),
        "started": record.and_then(|record| record.started),
        "ended": record.and_then(|record| record.ended),
        "exitCode": record.filter(|_| view.status == Status::Stopped).map(PodRecord::exit_code),
        "foreground": record.map(|record| record.foreground),
        "ports": record.filter(|_| view.is_alive()).map(|record| &record.ports),
        "containers": record.map(|record| &record.containers),
    })
}

#[cfg(test)]
mod tests {
    use sandbox::ContainerConfig;
    use sandbox::monitor::{ContainerPlan, PodPlan};
    use sandbox::timestamp::Timestamp;

    use super::*;

    fn view(status: Status, change: impl FnOnce(&mut PodRecord)) -> PodView {
        let mut plan = PodPlan::new("web");
        let config = ContainerConfig::command(["httpd", "-f", "-p", "8080", "-h", "/srv/www/html"]);
        plan.containers.push(ContainerPlan::new(&config));
        let mut record = PodRecord::new(&plan, false);
        change(&mut record);
        PodView {
            name: "web".into(),
            dir: "/run/podvmm/web".into(),
            status,
            reason: record.reason.clone(),
            record: Some(record),
        }
    }

    fn exit(code: u8) -> sandbox::monitor::ExitRecord {
        sandbox::monitor::ExitRecord {
            code,
            signal: None,
            oom_killed: false,
            at: Timestamp::now(),
        }
    }

    #[test]
    fn each_state_is_told_in_words() {
        let now = Some(Timestamp::now());
        let running = view(Status::Running, |record| record.started = now);
        assert_eq!(status(&running), "Up 0 seconds");
        let restarting = view(Status::Running, |record| {
            record.containers[0].exit = Some(exit(1));
        });
        assert_eq!(status(&restarting), "Up (restarting)");
        let hungry = view(Status::Running, |record| {
            record.started = now;
            record.containers[0].exit = Some(sandbox::monitor::ExitRecord {
                oom_killed: true,
                ..exit(137)
            });
            record.containers[0].phase = ContainerPhase::Running;
            record.containers[0].ready = true;
        });
        assert_eq!(status(&hungry), "Up 0 seconds (OOMKilled: main)");
        let unready = view(Status::Running, |record| {
            record.containers[0].phase = ContainerPhase::Running;
            record.containers[0].complaint = Some("Readiness probe failed: no\nmore".into());
        });
        assert_eq!(
            status(&unready),
            "Up (not ready: main: Readiness probe failed: no)"
        );
        let exited = view(Status::Stopped, |record| {
            record.ended = now;
            record.containers[0].exit = Some(exit(3));
        });
        assert_eq!(status(&exited), "Exited (3) 0 seconds ago");
        let failed = view(Status::Stopped, |record| {
            record.ended = now;
            record.reason = Some("the VMM process died: killed\nmore".into());
        });
        assert_eq!(
            status(&failed),
            "Failed 0 seconds ago: the VMM process died: killed"
        );
        let mut dead = view(Status::Dead, |_| ());
        dead.reason = Some("its monitor (process 7) was killed while the pod ran".into());
        assert_eq!(
            status(&dead),
            "Dead: its monitor (process 7) was killed while the pod ran"
        );
    }

    #[test]
    fn a_pod_without_a_record_has_a_line_too() {
        let mut lost = view(Status::Dead, |_| ());
        lost.record = None;
        lost.reason = Some("its owner died without a record".into());
        let text = table(&[lost.clone()]).text();
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("web   Dead: its owner"), "{line}");
        assert_eq!(summary(&lost)["status"], "dead");
    }

    #[test]
    fn long_commands_are_cut_and_containers_counted() {
        let view = view(Status::Running, |record| {
            record.containers[0].phase = ContainerPhase::Running;
            record.containers[0].ready = true;
            record.containers[0].restarts = 2;
        });
        let text = table(std::slice::from_ref(&view)).text();
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains("1/1") && line.ends_with("…\""), "{line}");
        let json = summary(&view);
        assert_eq!(json["containers"][0]["restarts"], 2);
        assert_eq!(json["exitCode"], Value::Null);
    }
}
