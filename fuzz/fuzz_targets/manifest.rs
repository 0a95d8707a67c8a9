//! Texts that are almost manifests: no panic, bounded output, and an order that holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podvmm_manifest::plan::{ImageConfig, Surroundings, plan};
use podvmm_manifest::{Options, Quantity, Severity, parse};

fuzz_target!(|text: &str| {
    if let Ok(quantity) = Quantity::parse(text) {
        assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity));
    }
    let strict = parse(text, &Options::default());
    let lenient = parse(
        text,
        &Options {
            ignore_unsupported: true,
            ..Options::default()
        },
    );
    assert!(
        strict.is_err() || lenient.is_ok(),
        "ignoring fields makes nothing worse"
    );
    match lenient {
        Err(rejected) => {
            let problems = &rejected.problems;
            assert!(problems.iter().any(|p| p.severity == Severity::Error));
            assert!(problems.is_sorted_by_key(|p| p.place));
            assert!(rejected.to_string().len() < 1 << 20);
        }
        Ok(manifest) => {
            let image = ImageConfig {
                entrypoint: vec!["/bin/true".into()],
                ..ImageConfig::default()
            };
            if let Ok(plan) = plan(&manifest, |_| Some(&image), &Surroundings::default()) {
                assert!(!plan.containers.is_empty());
                for container in &plan.containers {
                    assert!(!container.args.is_empty());
                    let _ = container.user.resolve("", "");
                }
            }
        }
    }
});
