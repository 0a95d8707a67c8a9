//! `$(NAME)` and `$$` in commands, arguments, values and paths.

use std::borrow::Cow;

use thiserror::Error;

/// The kernel takes no longer string (MAX_ARG_STRLEN), and with it no container.
pub const MAX_LENGTH: usize = 131_071;

/// A text that is too long when expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "has more than {MAX_LENGTH} bytes when its variables are expanded, which the kernel takes in no string"
)]
pub struct TooLong;

/// Puts values in place of `$(NAME)`. A name without a value stays as it is, and `$$` is a `$`.
///
/// # Errors
/// [`TooLong`]: values that name each other can grow without end.
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, TooLong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let piece = match rest.as_bytes().first() {
            Some(b'$') => {
                rest = &rest[1..];
                Cow::Borrowed("$")
            }
            Some(b'(') => match rest.find(')') {
                Some(end) => {
                    let name = &rest[1..end];
                    rest = &rest[end + 1..];
                    match value(name) {
                        Some(value) => Cow::Borrowed(value),
                        None => Cow::Owned(format!("$({name})")),
                    }
                }
                None => Cow::Borrowed("$"),
            },
            _ => Cow::Borrowed("$"),
        };
        out.push_str(&piece);
        if out.len() > MAX_LENGTH {
            return Err(TooLong);
        }
    }
    out.push_str(rest);
    if out.len() > MAX_LENGTH {
        return Err(TooLong);
    }
    Ok(out)
}

/// The first name in `$(NAME)` that has no value.
pub fn unknown(text: &str, is_known: impl Fn(&str) -> bool) -> Option<&str> {
    let mut rest = text;
    loop {
        let at = rest.find('$')?;
        rest = &rest[at + 1..];
        match rest.as_bytes().first()? {
            b'$' => rest = &rest[1..],
            b'(' => {
                let end = rest.find(')')?;
                let name = &rest[1..end];
                if !is_known(name) {
                    return Some(name);
                }
                rest = &rest[end + 1..];
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<&'static str> {
        match name {
            "A" => Some("a"),
            "EMPTY" => Some(""),
            "MONEY" => Some("$(A)"),
            _ => None,
        }
    }

    #[test]
    fn as_kubernetes_expands() {
        for (text, expanded) in [
            ("", ""),
            ("$(A)", "a"),
            ("x$(A)y$(A)", "xaya"),
            ("$(EMPTY)", ""),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$", "$"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("$($(A))", "$($(A))"),
            // Values are not expanded again.
            ("$(MONEY)", "$(A)"),
            ("é$(A)é", "éaé"),
        ] {
            assert_eq!(expand(text, value).as_deref(), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn values_do_not_grow_without_end() {
        let long = "x".repeat(MAX_LENGTH / 2 + 1);
        assert_eq!(expand("$(A)$(A)", |_| Some(&long)), Err(TooLong));
        assert!(expand("$(A)", |_| Some(&long)).is_ok());
    }

    #[test]
    fn what_has_no_value() {
        let known = |name: &str| name == "A";
        assert_eq!(unknown("$(A)/$$(B)/$(C)", known), Some("C"));
        assert_eq!(unknown("$(A)/$$(B)/$", known), None);
    }
}
