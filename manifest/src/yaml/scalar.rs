//! What an unquoted word means.
//!
//! Kubernetes turns YAML into JSON by the rules of YAML 1.1, so `yes` is a boolean and `0644` is octal.
//! A manifest must not mean something else here.

/// A scalar value.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Null,
    Bool {
        value: bool,
        text: String,
    },
    Int {
        value: i128,
        text: String,
    },
    /// A number with a fraction or exponent; its value is only ever a quantity's.
    Float {
        text: String,
    },
    Text(String),
}

/// Longest piece of a value that an error repeats, in characters.
const SHOWN: usize = 40;

impl Scalar {
    /// The meaning of an unquoted word.
    pub fn plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::boolean(true, text);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => return Self::boolean(false, text),
            _ => {}
        }
        if let Some(value) = integer(text) {
            return Self::Int {
                value,
                text: text.to_owned(),
            };
        }
        if is_float(text) {
            return Self::Float {
                text: text.to_owned(),
            };
        }
        Self::Text(text.to_owned())
    }

    fn boolean(value: bool, text: &str) -> Self {
        Self::Bool {
            value,
            text: text.to_owned(),
        }
    }

    /// What it is, as an error says it.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool { text, .. } => format!("the boolean {text}"),
            Self::Int { text, .. } | Self::Float { text } => {
                format!("the number {}", shorten(text))
            }
            Self::Text(text) => format!("the string {:?}", shorten(text)),
        }
    }
}

/// A value for an error: its beginning, if it is long.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (2, binary)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // A sign after the prefix is no number; `from_str_radix` would take it.
    if digits.starts_with(['-', '+']) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return true;
    }
    // Rust takes "inf" and "nan", YAML does not.
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().any(|byte| byte.is_ascii_digit())
        && unsigned
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && unsigned.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_kubernetes_reads() {
        for (text, value) in [
            ("0644", 0o644),
            ("0o644", 0o644),
            ("0x1F", 31),
            ("0b11", 3),
            ("1_000", 1000),
            ("-5", -5),
            ("+5", 5),
            ("0", 0),
        ] {
            assert!(
                matches!(Scalar::plain(text), Scalar::Int { value: v, .. } if v == value),
                "{text}"
            );
        }
        for text in ["yes", "On", "TRUE", "y", "n", "off", "False"] {
            assert!(matches!(Scalar::plain(text), Scalar::Bool { .. }), "{text}");
        }
        for text in [
            "0.5", "1e3", "-1.5E-3", ".5", ".inf", "-.INF", "1.", "089.5", "08",
        ] {
            assert!(
                matches!(Scalar::plain(text), Scalar::Float { .. }),
                "{text}"
            );
        }
        for text in [
            "yEs", "1Gi", "1e3Gi", "inf", "nan", "0x", "--1", "0x-1", "1:30", "e", ".",
        ] {
            assert!(matches!(Scalar::plain(text), Scalar::Text(_)), "{text}");
        }
        for text in ["", "~", "null"] {
            assert_eq!(Scalar::plain(text), Scalar::Null);
        }
    }
}
