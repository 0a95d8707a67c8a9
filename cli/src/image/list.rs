//! `podvmm image ls` and `podvmm image inspect`.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use image::store::Record;
use image::{Image, Store};
use serde_json::{Value, json};

use super::args;
use super::print;

pub fn list(store: &Store, args: &args::Ls) -> anyhow::Result<u8> {
    let records = store.list()?;
    let text = if args.json {
        let all: Vec<_> = records
            .iter()
            .map(|record| to_json(store, record))
            .collect();
        serde_json::to_string_pretty(&all)? + "\n"
    } else if args.quiet {
        records
            .iter()
            .map(|record| format!("{}\n", record.name))
            .collect()
    } else {
        table(&records)
    };
    print(&text)?;
    Ok(0)
}

pub fn inspect(store: &Store, args: &args::Inspect) -> anyhow::Result<u8> {
    let mut all = Vec::new();
    for text in &args.images {
        all.push(store.load(store.find(text)?)?);
    }
    if args.json {
        let all: Vec<_> = all.iter().map(|image| everything(store, image)).collect();
        print(&(serde_json::to_string_pretty(&all)? + "\n"))?;
    } else {
        for image in &all {
            print(&described(store, image))?;
        }
    }
    Ok(0)
}

fn to_json(store: &Store, record: &Record) -> Value {
    json!({
        "name": record.name,
        "id": record.id,
        "digest": record.manifest.digest,
        "platform": record.platform.to_string(),
        "size": record.size,
        "added": record.added,
        "unpacked": store.is_unpacked(record.chain_id),
    })
}

fn everything(store: &Store, image: &Image) -> Value {
    let mut value = to_json(store, image.record());
    value["chainId"] = json!(image.record().chain_id);
    value["created"] = json!(image.config().created);
    value["config"] = json!(image.config().config);
    value["layers"] = image
        .manifest()
        .layers
        .iter()
        .zip(&image.config().rootfs.diff_ids)
        .map(|(layer, diff_id)| {
            json!({
                "digest": layer.digest,
                "mediaType": layer.media_type,
                "size": layer.size,
                "diffId": diff_id,
            })
        })
        .collect();
    value
}

fn table(records: &[Record]) -> String {
    let head = ["NAME", "ID", "PLATFORM", "SIZE", "ADDED"].map(str::to_owned);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let rows = records.iter().map(|record| {
        [
            record.name.clone(),
            record.id.short(),
            record.platform.to_string(),
            human(record.size),
            ago(now.saturating_sub(record.added)),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for row in &rows {
        let columns = row.iter().zip(widths);
        for (cell, width) in columns {
            let _ = write!(text, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", row[4]);
    }
    text
}

fn described(store: &Store, image: &Image) -> String {
    let (record, settings) = (image.record(), &image.config().config);
    let words = |words: &[String]| words.join(" ");
    let keys = |keys: Vec<&String>| keys.into_iter().cloned().collect::<Vec<_>>().join(" ");
    let unpacked = if store.is_unpacked(record.chain_id) {
        "yes"
    } else {
        "no; the first pod will"
    };
    let mut text = format!("{}\n", record.name);
    for (name, value) in [
        ("id", record.id.to_string()),
        ("digest", record.manifest.digest.to_string()),
        ("platform", record.platform.to_string()),
        ("layers", image.manifest().layers.len().to_string()),
        ("size", human(record.size)),
        ("unpacked", unpacked.into()),
        (
            "created",
            image.config().created.clone().unwrap_or_default(),
        ),
        ("entrypoint", words(&settings.entrypoint)),
        ("cmd", words(&settings.cmd)),
        ("env", words(&settings.env)),
        ("user", settings.user.clone()),
        ("workdir", settings.working_dir.clone()),
        ("volumes", keys(settings.volumes.keys().collect())),
        ("ports", keys(settings.exposed_ports.keys().collect())),
        ("stop signal", settings.stop_signal.clone()),
    ] {
        if !value.is_empty() {
            // What an image says is shown, and not done by the terminal.
            let value = value.replace(|c: char| c.is_control(), "\u{fffd}");
            let _ = writeln!(text, "  {name:12}{value}");
        }
    }
    text
}

/// A size as people read it.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

fn ago(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_written_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (1_048_576, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
        for (seconds, text) in [
            (5, "just now"),
            (60, "1 minute ago"),
            (7200, "2 hours ago"),
            (200_000, "2 days ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }
}
