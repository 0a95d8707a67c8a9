//! Quantities such as `500m`, `1.5Gi` or `1e3`, with exact arithmetic.
//!
//! Kubernetes' rules: a decimal number, then a suffix (`n` to `E`, `Ki` to `Ei`) or an exponent, never
//! both. What is finer than a billionth is rounded up, and nothing is beyond 2^63 - 1.

use std::fmt;

use thiserror::Error;

const NANO: i128 = 1_000_000_000;
const MILLI: i128 = 1_000_000;
/// Longest text that can be a quantity of use; more digits are refused unread.
const MAX_LEN: usize = 64;

/// An exact number of billionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    nanos: i128,
}

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// No number at its beginning.
    #[error("has no number: write something like 500m, 2 or 1.5Gi")]
    NoNumber,
    /// An exponent and a suffix.
    #[error(
        "has an exponent and a suffix: write one of them, such as {number}e3 or {number}{suffix}"
    )]
    ExponentAndSuffix {
        /// The number before both.
        number: String,
        /// The suffix.
        suffix: String,
    },
    /// A suffix that there is not.
    #[error("has the suffix {0:?}; there are n, u, m, k, M, G, T, P, E and Ki, Mi, Gi, Ti, Pi, Ei{hint}", hint = hint(.0))]
    Suffix(String),
    /// Out of range.
    #[error("is beyond 2^63 - 1, which no quantity is")]
    TooLarge,
}

fn hint(suffix: &str) -> String {
    let lower = suffix.to_ascii_lowercase();
    let meant = match lower.as_str() {
        "k" | "kb" => "k or Ki",
        "mb" | "mib" | "mi" => "M or Mi",
        "g" | "gb" | "gib" | "gi" => "G or Gi",
        "t" | "tb" | "tib" | "ti" => "T or Ti",
        "ki" | "kib" => "Ki",
        _ => return String::new(),
    };
    format!(": write {meant}")
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0 };

    /// A whole number.
    #[must_use]
    pub fn whole(value: u64) -> Self {
        Self {
            nanos: i128::from(value) * NANO,
        }
    }

    /// A number of thousandths.
    #[must_use]
    pub fn millis(value: u64) -> Self {
        Self {
            nanos: i128::from(value) * MILLI,
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`QuantityError`].
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.len() > MAX_LEN {
            return Err(QuantityError::TooLarge);
        }
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(QuantityError::NoNumber);
        }
        let scale = Scale::parse(number, suffix)?;
        let magnitude = nanos(whole, fraction, scale).ok_or(QuantityError::TooLarge)?;
        if magnitude > i128::from(i64::MAX) * NANO {
            return Err(QuantityError::TooLarge);
        }
        Ok(Self {
            nanos: if negative { -magnitude } else { magnitude },
        })
    }

    /// Whether it is below nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Its value, if it is a whole number and not negative.
    #[must_use]
    pub fn as_whole(self) -> Option<u64> {
        Self::exact(self.nanos, NANO)
    }

    /// Its thousandths, if that is a whole number and not negative.
    #[must_use]
    pub fn as_millis(self) -> Option<u64> {
        Self::exact(self.nanos, MILLI)
    }

    fn exact(nanos: i128, unit: i128) -> Option<u64> {
        (nanos % unit == 0)
            .then(|| u64::try_from(nanos / unit).ok())
            .flatten()
    }

    /// How often `divisor` goes into it, rounded up; none if the divisor is not above nothing.
    #[must_use]
    pub fn div_ceil(self, divisor: Self) -> Option<i128> {
        if divisor.nanos <= 0 {
            return None;
        }
        let quotient = self.nanos.div_euclid(divisor.nanos);
        let rest = self.nanos.rem_euclid(divisor.nanos);
        Some(quotient + i128::from(rest > 0))
    }

    /// The sum, at most as large as a quantity can be.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        let limit = i128::from(i64::MAX) * NANO;
        Self {
            nanos: (self.nanos + other.nanos).clamp(-limit, limit),
        }
    }
}

/// Exact, as a decimal number.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanos < 0 { "-" } else { "" };
        let (whole, rest) = (self.nanos.abs() / NANO, self.nanos.abs() % NANO);
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        let fraction = format!("{rest:09}");
        write!(f, "{sign}{whole}.{}", fraction.trim_end_matches('0'))
    }
}

/// What the number is multiplied by.
#[derive(Clone, Copy, Debug)]
enum Scale {
    /// A power of ten.
    Ten(i32),
    /// A power of two.
    Two(u32),
}

impl Scale {
    fn parse(number: &str, suffix: &str) -> Result<Self, QuantityError> {
        Ok(match suffix {
            "n" => Self::Ten(-9),
            "u" => Self::Ten(-6),
            "m" => Self::Ten(-3),
            "" => Self::Ten(0),
            "k" => Self::Ten(3),
            "M" => Self::Ten(6),
            "G" => Self::Ten(9),
            "T" => Self::Ten(12),
            "P" => Self::Ten(15),
            "E" => Self::Ten(18),
            "Ki" => Self::Two(10),
            "Mi" => Self::Two(20),
            "Gi" => Self::Two(30),
            "Ti" => Self::Two(40),
            "Pi" => Self::Two(50),
            "Ei" => Self::Two(60),
            _ => return Self::exponent(number, suffix),
        })
    }

    fn exponent(number: &str, suffix: &str) -> Result<Self, QuantityError> {
        let unknown = || QuantityError::Suffix(suffix.to_owned());
        let power = suffix.strip_prefix(['e', 'E']).ok_or_else(unknown)?;
        let signless = power.strip_prefix(['+', '-']).unwrap_or(power);
        let digits = signless.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err(unknown());
        }
        if digits < signless.len() {
            return Err(QuantityError::ExponentAndSuffix {
                number: number.to_owned(),
                suffix: signless[digits..].to_owned(),
            });
        }
        let power: i32 = power.parse().map_err(|_| QuantityError::TooLarge)?;
        Ok(Self::Ten(power))
    }
}

/// `whole.fraction` times `scale` in billionths, rounded up; none if that is too much to count.
fn nanos(whole: &str, fraction: &str, scale: Scale) -> Option<i128> {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let places = i32::try_from(fraction.len()).ok()?;
    let (factor, power) = match scale {
        Scale::Ten(power) => (1, power.checked_sub(places)?.checked_add(9)?),
        Scale::Two(power) => (1_i128 << power, 9 - places),
    };
    // Digits beyond what fits are dropped before they are counted, and rounded up.
    let length = i32::try_from(digits.len()).ok()?;
    if power < 0 && length + power < -20 {
        return Some(1);
    }
    let value = digits.parse::<i128>().ok()?.checked_mul(factor)?;
    if power >= 0 {
        let ten = 10_i128.checked_pow(u32::try_from(power).ok()?)?;
        return value.checked_mul(ten);
    }
    let divisor = 10_i128.checked_pow(power.unsigned_abs())?;
    Some(value / divisor + i128::from(value % divisor != 0))
}

#[cfg(test)]
#[path = "quantity_tests.rs"]
mod tests;
