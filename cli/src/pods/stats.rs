//! `podvmm stats`.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use sandbox::monitor::{ClientError, PodStats, PodStore};
use serde_json::json;

use super::table::Table;
use super::{alive, store};
use crate::args::Stats;

/// Between two looks, of which the CPU's share is taken.
const PERIOD: Duration = Duration::from_secs(1);

/// A pod's numbers at one time.
struct Look {
    pod: String,
    at: Instant,
    stats: PodStats,
}

pub fn stats(args: &Stats, root: Option<&Path>) -> anyhow::Result<u8> {
    let store = store(root);
    let mut before = look(args, &store)?;
    let clears = io::stdout().is_terminal() && !args.no_stream && !args.json;
    loop {
        std::thread::sleep(PERIOD);
        let now = look(args, &store)?;
        let text = if args.json {
            now.iter().map(|look| json_line(look, &before)).collect()
        } else {
            table(&now, &before)
        };
        let clear = if clears { "\x1b[H\x1b[2J" } else { "" };
        let mut out = io::stdout().lock();
        if write!(out, "{clear}{text}")
            .and_then(|()| out.flush())
            .is_err()
            || args.no_stream
        {
            return Ok(0);
        }
        if now.is_empty() && !args.pods.is_empty() {
            // All that were asked for have ended.
            return Ok(0);
        }
        before = now;
    }
}

fn look(args: &Stats, store: &PodStore) -> anyhow::Result<Vec<Look>> {
    let views = if args.pods.is_empty() {
        let views = store.list()?.into_iter();
        views.filter(sandbox::monitor::PodView::is_alive).collect()
    } else {
        let views = args.pods.iter().map(|name| alive(store, name));
        views.collect::<anyhow::Result<Vec<_>>>()?
    };
    let mut looks = Vec::new();
    for view in views {
        match view.client().stats() {
            Ok(stats) => looks.push(Look {
                pod: view.name,
                at: Instant::now(),
                stats,
            }),
            // It has no VM yet, or no more.
            Err(ClientError::Refused { .. } | ClientError::Gone | ClientError::Connect(_)) => {}
            Err(error) => return Err(anyhow::Error::new(error).context(view.name)),
        }
    }
    Ok(looks)
}

/// Hundredths of one CPU that were used between two looks.
fn cpu_share(before: Option<(Instant, u64)>, now: (Instant, u64)) -> f64 {
    let Some(before) = before else {
        return 0.0;
    };
    let time = now.0.duration_since(before.0).as_secs_f64();
    // What has started again begins at nothing.
    let used = now.1.saturating_sub(before.1) as f64 / 1e6;
    if time > 0.0 { used / time * 100.0 } else { 0.0 }
}

fn container_cpu(look: &Look, before: &[Look], name: &str) -> f64 {
    let usec = |look: &Look| {
        let mut containers = look.stats.containers.iter();
        let found = containers.find(|container| container.name == name)?;
        Some((look.at, found.cpu_usec))
    };
    let earlier = before.iter().find(|earlier| earlier.pod == look.pod);
    match usec(look) {
        Some(now) => cpu_share(earlier.and_then(usec), now),
        None => 0.0,
    }
}

fn table(now: &[Look], before: &[Look]) -> String {
    let mut table = Table::new(&[
        "POD",
        "CONTAINER",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "PIDS",
        "RESTARTS",
        "OOM KILLS",
    ]);
    for look in now {
        for container in &look.stats.containers {
            let limit = container.memory_limit;
            let limit = limit.map_or(look.stats.memory_total, |limit| {
                limit.min(look.stats.memory_total)
            });
            let share = if limit > 0 {
                container.memory as f64 / limit as f64 * 100.0
            } else {
                0.0
            };
            table.push(vec![
                look.pod.clone(),
                container.name.clone(),
                format!("{:.2}%", container_cpu(look, before, &container.name)),
                format!("{} / {}", bytes(container.memory), bytes(limit)),
                format!("{share:.2}%"),
                container.pids.to_string(),
                container.restarts.to_string(),
                container.oom_kills.to_string(),
            ]);
        }
    }
    table.text()
}

fn json_line(look: &Look, before: &[Look]) -> String {
    let earlier = before.iter().find(|earlier| earlier.pod == look.pod);
    let containers = look.stats.containers.iter();
    let containers: Vec<_> = containers
        .map(|container| {
            json!({
                "name": container.name,
                "cpuPercent": container_cpu(look, before, &container.name),
                "cpuMicroseconds": container.cpu_usec,
                "memory": container.memory,
                "memoryLimit": container.memory_limit,
                "pids": container.pids,
                "readBytes": container.read_bytes,
                "writtenBytes": container.written_bytes,
                "restarts": container.restarts,
                "oomKills": container.oom_kills,
            })
        })
        .collect();
    let pod = json!({
        "pod": look.pod,
        "cpuPercent": cpu_share(
            earlier.map(|earlier| (earlier.at, earlier.stats.cpu_usec)),
            (look.at, look.stats.cpu_usec),
        ),
        "cpuMicroseconds": look.stats.cpu_usec,
        "cpus": look.stats.cpus,
        "memoryTotal": look.stats.memory_total,
        "memoryAvailable": look.stats.memory_available,
        "containers": containers,
    });
    format!("{pod}\n")
}

/// `1.5MiB`.
fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use sandbox::monitor::ContainerUse;

    use super::*;

    fn look_at(at: Instant, cpu_usec: u64) -> Look {
        Look {
            pod: "web".into(),
            at,
            stats: PodStats {
                memory_total: 1 << 30,
                containers: vec![ContainerUse {
                    name: "main".into(),
                    cpu_usec,
                    memory: 256 << 20,
                    memory_limit: Some(512 << 20),
                    pids: 3,
                    restarts: 2,
                    oom_kills: 1,
                    ..ContainerUse::default()
                }],
                ..PodStats::default()
            },
        }
    }

    #[test]
    fn shares_are_of_one_cpu_and_of_the_limit() {
        let first = Instant::now();
        let second = first + Duration::from_secs(2);
        let before = [look_at(first, 1_000_000)];
        let text = table(&[look_at(second, 4_000_000)], &before);
        let line: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            line,
            [
                "web", "main", "150.00%", "256MiB", "/", "512MiB", "50.00%", "3", "2", "1"
            ]
        );
    }

    #[test]
    fn what_is_new_or_began_anew_has_used_nothing() {
        let now = Instant::now();
        assert_eq!(cpu_share(None, (now, 5)), 0.0);
        assert_eq!(cpu_share(Some((now, 9)), (now + PERIOD, 5)), 0.0);
        assert_eq!(cpu_share(Some((now, 0)), (now, 5)), 0.0);
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (count, text) in [
            (0, "0B"),
            (1536, "1.5KiB"),
            (256 << 20, "256MiB"),
            (1 << 40, "1.0TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
