use super::*;

fn nanos_of(text: &str) -> i128 {
    Quantity::parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .nanos
}

#[test]
fn quantities() {
    for (text, nanos) in [
        ("0", 0),
        ("1", NANO),
        ("500m", NANO / 2),
        ("0.5", NANO / 2),
        (".5", NANO / 2),
        ("5.", 5 * NANO),
        ("+2", 2 * NANO),
        ("-1", -NANO),
        ("100n", 100),
        ("1u", 1000),
        ("1k", 1000 * NANO),
        ("1e3", 1000 * NANO),
        ("1E3", 1000 * NANO),
        ("1E", 1_000_000_000_000_000_000 * NANO),
        ("1e-3", MILLI),
        ("1.5Gi", 1_610_612_736 * NANO),
        ("1Ki", 1024 * NANO),
        ("0.1m", 100_000),
        // Finer than a billionth: rounded up.
        ("0.1n", 1),
        ("1e-30", 1),
        ("0.0000000001Ki", 103),
        ("9223372036854775807", i128::from(i64::MAX) * NANO),
        ("000000000000000000000000000000000001", NANO),
    ] {
        assert_eq!(nanos_of(text), nanos, "{text}");
    }
}

#[test]
fn what_is_no_quantity() {
    for (text, message) in [
        ("", "has no number: write something like 500m, 2 or 1.5Gi"),
        ("Gi", "has no number: write something like 500m, 2 or 1.5Gi"),
        (
            "1.2.3",
            "has no number: write something like 500m, 2 or 1.5Gi",
        ),
        (
            "--1",
            "has no number: write something like 500m, 2 or 1.5Gi",
        ),
        (
            "1e3Gi",
            "has an exponent and a suffix: write one of them, such as 1e3 or 1Gi",
        ),
        (
            "1GB",
            "has the suffix \"GB\"; there are n, u, m, k, M, G, T, P, E and Ki, Mi, Gi, Ti, Pi, Ei: write G or Gi",
        ),
        (
            "1 Gi",
            "has the suffix \" Gi\"; there are n, u, m, k, M, G, T, P, E and Ki, Mi, Gi, Ti, Pi, Ei",
        ),
        ("8Ei", "is beyond 2^63 - 1, which no quantity is"),
        ("1e99999999999", "is beyond 2^63 - 1, which no quantity is"),
        ("1e40", "is beyond 2^63 - 1, which no quantity is"),
        (
            "9223372036854775808",
            "is beyond 2^63 - 1, which no quantity is",
        ),
        (&"9".repeat(100), "is beyond 2^63 - 1, which no quantity is"),
    ] {
        let error = Quantity::parse(text).unwrap_err();
        assert_eq!(error.to_string(), message, "{text}");
    }
}

#[test]
fn whole_numbers_and_thousandths_are_exact_or_none() {
    let parse = |text| Quantity::parse(text).unwrap();
    assert_eq!(parse("1.5").as_whole(), None);
    assert_eq!(parse("1.5").as_millis(), Some(1500));
    assert_eq!(parse("0.1m").as_millis(), None);
    assert_eq!(parse("-1").as_whole(), None);
    assert_eq!(parse("1Gi").as_whole(), Some(1 << 30));
}

#[test]
fn division_rounds_up() {
    let parse = |text| Quantity::parse(text).unwrap();
    for (value, divisor, result) in [
        ("1500m", "1", Some(2)),
        ("1500m", "1m", Some(1500)),
        ("1Gi", "1Mi", Some(1024)),
        ("1", "1Gi", Some(1)),
        ("0", "1", Some(0)),
        ("-1500m", "1", Some(-1)),
        ("1", "0", None),
    ] {
        assert_eq!(
            parse(value).div_ceil(parse(divisor)),
            result,
            "{value} / {divisor}"
        );
    }
}

/// Numbers that are the same on each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.0 >> 20
    }
}

#[test]
fn what_is_printed_is_what_was_read() {
    let mut random = Random(1);
    let suffixes = [
        "n", "u", "m", "", "k", "M", "Ki", "Mi", "Gi", "e3", "e-4", "E2",
    ];
    for _ in 0..20_000 {
        let whole = random.next() % 1_000_000;
        let fraction = random.next() % 1000;
        let suffix = suffixes[usize::try_from(random.next()).unwrap() % suffixes.len()];
        let text = format!("{whole}.{fraction:03}{suffix}");
        let quantity = Quantity::parse(&text).unwrap();
        assert_eq!(
            Quantity::parse(&quantity.to_string()),
            Ok(quantity),
            "{text}"
        );
    }
}

#[test]
fn a_sum_does_not_depend_on_how_its_parts_are_written() {
    let mut random = Random(2);
    for _ in 0..20_000 {
        let (a, b) = (random.next() % 1_000_000, random.next() % 1_000_000);
        let parse = |text: String| Quantity::parse(&text).unwrap();
        let millis = parse(format!("{a}m")).saturating_add(parse(format!("{b}m")));
        let decimal = parse(format!("{}.{:03}", (a + b) / 1000, (a + b) % 1000));
        assert_eq!(millis, decimal);
        assert_eq!(millis.as_millis(), Some(a + b));
        assert_eq!(parse(format!("{a}")) < parse(format!("{b}")), a < b);
    }
}

#[test]
fn no_text_of_these_characters_panics() {
    let mut random = Random(3);
    let alphabet = b"0123456789.+-eEkKMGTPinum ";
    for _ in 0..200_000 {
        let length = random.next() % 12;
        let text: String = (0..length)
            .map(|_| char::from(alphabet[usize::try_from(random.next()).unwrap() % alphabet.len()]))
            .collect();
        if let Ok(quantity) = Quantity::parse(&text) {
            assert_eq!(
                Quantity::parse(&quantity.to_string()),
                Ok(quantity),
                "{text}"
            );
        }
    }
}
