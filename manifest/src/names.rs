//! The forms that names have in Kubernetes. Each check gives the rule that is broken.

const LABEL: &str = "must be lower-case letters, digits and '-', at most 63, and start and end with a letter or digit";
const SUBDOMAIN: &str = "must be lower-case letters, digits, '-' and '.', at most 253, and each part between dots must start and end with a letter or digit";

type Rule = Result<(), String>;

fn rule(holds: bool, text: &str) -> Rule {
    if holds { Ok(()) } else { Err(text.to_owned()) }
}

/// A DNS label: a name of a container or volume, a host name.
pub fn label(text: &str) -> Rule {
    rule(is_label(text), LABEL)
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.is_empty()
}

/// A DNS name: a name of a pod, ConfigMap or Secret.
pub fn subdomain(text: &str) -> Rule {
    rule(
        text.len() <= 253 && text.split('.').all(is_label),
        SUBDOMAIN,
    )
}

/// The key of a label or annotation, with an optional DNS name before a slash.
pub fn qualified(text: &str) -> Rule {
    let (prefix, name) = text
        .rsplit_once('/')
        .map_or((None, text), |(p, n)| (Some(p), n));
    rule(
        prefix.is_none_or(|prefix| subdomain(prefix).is_ok()) && is_qualified_part(name),
        "must be letters, digits, '-', '_' and '.', at most 63, and start and end with a letter or digit; a DNS name and '/' may stand before it",
    )
}

/// The value of a label.
pub fn label_value(text: &str) -> Rule {
    rule(
        text.is_empty() || is_qualified_part(text),
        "must be empty, or letters, digits, '-', '_' and '.', at most 63, and start and end with a letter or digit",
    )
}

fn is_qualified_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63 && text.bytes().all(inner) && text.starts_with(outer) && text.ends_with(outer)
}

/// The name of a variable.
pub fn variable(text: &str) -> Rule {
    let fine = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    rule(
        !text.is_empty() && text.bytes().all(fine),
        "must be printable ASCII characters without '='",
    )
}

/// The key of a ConfigMap or Secret, which becomes a file's name.
pub fn data_key(text: &str) -> Rule {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let sized = (1..=253).contains(&text.len());
    rule(
        sized && text.bytes().all(inner) && text != "." && !text.starts_with(".."),
        "must be letters, digits, '-', '_' and '.', at most 253, and not start with '..'",
    )
}

/// The name of a port.
pub fn port(text: &str) -> Rule {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fine = (1..=15).contains(&text.len())
        && text.bytes().all(inner)
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    rule(
        fine,
        "must be lower-case letters, digits and single '-', at most 15, with at least one letter",
    )
}

/// A kernel parameter.
pub fn sysctl(text: &str) -> Rule {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    rule(
        text.len() <= 253 && text.contains(['.', '/']) && text.split(['.', '/']).all(part),
        "must be a name such as net.core.somaxconn",
    )
}

/// Words that differ from `text` by little, best first.
pub fn similar<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = text.to_ascii_lowercase();
    let allowed = (wanted.len() / 3).clamp(1, 3);
    words
        .map(|word| (distance(&wanted, &word.to_ascii_lowercase()), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// How many letters have to be added, taken away, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    // Fields of Kubernetes are ASCII and short, other words need no exact answer.
    if a.len().abs_diff(b.len()) > 3 || a.len() > 64 {
        return usize::MAX;
    }
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        least = least.min(rows[i - 2][j - 2] + 1);
                    }
                    least
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let long = "a".repeat(64);
        for (check, good, bad) in [
            (
                label as fn(&str) -> Rule,
                &["a", "a-1", "0"][..],
                &["", "A", "-a", "a-", "a.b", "a_b", &long][..],
            ),
            (subdomain, &["a.b", "a"], &["a..b", ".a", "A.b", ""]),
            (
                qualified,
                &["app", "example.com/App_1", "a.b"],
                &["", "/a", "a/b/c", "-a", "Ex.com/a"],
            ),
            (label_value, &["", "A_b.c-1"], &["-", "a b"]),
            (variable, &["A", "a.b-c", "1X"], &["", "A=B", "A\n"]),
            (
                data_key,
                &["a", ".conf", "a..b"],
                &["", ".", "..", "..a", "a/b"],
            ),
            (
                port,
                &["http", "h2-c"],
                &["", "80", "a--b", "HTTP", "sixteen-letters-"],
            ),
            (
                sysctl,
                &["net.core.somaxconn", "net/ipv4/x"],
                &["", "a", "a..b", "../a"],
            ),
        ] {
            for text in good {
                assert_eq!(check(text), Ok(()), "{text}");
            }
            for text in bad {
                assert!(check(text).is_err(), "{text}");
            }
        }
    }

    #[test]
    fn what_was_meant() {
        let words = ["restartPolicy", "resources", "image", "env", "envFrom"];
        for (text, meant) in [
            ("restartpolicy", Some("restartPolicy")),
            ("resuorces", Some("resources")),
            ("imgae", Some("image")),
            ("envs", Some("env")),
            ("command", None),
            ("é", None),
        ] {
            assert_eq!(similar(text, words.into_iter()), meant, "{text}");
        }
    }
}
