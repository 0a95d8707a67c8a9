use serde_json::json;

use super::*;
use crate::bundle::bpf::Instruction;

/// What the kernel does with a filter.
fn run(program: &Program, number: u32, args: [u64; 6]) -> u32 {
    run_as(program, 0xc000_003e, number, args)
}

fn run_as(program: &Program, architecture: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend_from_slice(&number.to_le_bytes());
    data.extend_from_slice(&architecture.to_le_bytes());
    data.extend_from_slice(&[0; 8]);
    for arg in args {
        data.extend_from_slice(&arg.to_le_bytes());
    }
    let word = |at: u32| {
        let at = at as usize;
        u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
    };
    let (mut at, mut hand) = (0usize, 0u32);
    loop {
        let Instruction { code, jt, jf, k } = program.0[at];
        at += 1;
        let mut branch = |yes: bool| at += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => hand = word(k),
            0x54 => hand &= k,
            0x06 => return k,
            0x05 => at += k as usize,
            0x15 => branch(hand == k),
            0x25 => branch(hand > k),
            0x35 => branch(hand >= k),
            other => panic!("code {other:#x}"),
        }
    }
}

fn compiled(profile: Value) -> Program {
    program(&serde_json::from_value(profile).unwrap()).unwrap()
}

#[test]
fn every_call_gets_what_the_profile_says() {
    let program = compiled(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            { "names": ["read", "write", "openat", "no_such_call"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
            { "names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS" },
            { "names": ["personality"], "action": "SCMP_ACT_LOG" },
        ],
    }));
    for number in 0..600 {
        let expected = match number {
            0 | 1 | 257 => RET_ALLOW,
            435 => RET_ERRNO | 38,
            101 => RET_KILL_PROCESS,
            135 => RET_LOG,
            _ => RET_ERRNO | 1,
        };
        assert_eq!(run(&program, number, [0; 6]), expected, "{number}");
    }
    assert_eq!(run(&program, X32_BIT, [0; 6]), RET_ERRNO | ENOSYS);
    assert_eq!(run(&program, u32::MAX, [0; 6]), RET_ERRNO | ENOSYS);
    assert_eq!(run_as(&program, 0x4000_0003, 0, [0; 6]), RET_KILL_PROCESS);
}

#[test]
fn arguments_are_compared_as_64_bits() {
    type Holds = fn(u64, u64, u64) -> bool;
    let comparisons: [(&str, Holds); 7] = [
        ("SCMP_CMP_NE", |arg, value, _| arg != value),
        ("SCMP_CMP_EQ", |arg, value, _| arg == value),
        ("SCMP_CMP_LT", |arg, value, _| arg < value),
        ("SCMP_CMP_LE", |arg, value, _| arg <= value),
        ("SCMP_CMP_GT", |arg, value, _| arg > value),
        ("SCMP_CMP_GE", |arg, value, _| arg >= value),
        ("SCMP_CMP_MASKED_EQ", |arg, mask, value| arg & mask == value),
    ];
    let values = [
        0,
        1,
        2,
        u64::from(u32::MAX),
        1 << 32,
        (1 << 32) + 1,
        (1 << 32) - 2,
        0x7e02_0000,
        u64::MAX,
        u64::MAX - 1,
        0x8000_0000_0000_0000,
    ];
    for (op, holds) in comparisons {
        for value in values {
            for second in [0, value] {
                let program = compiled(json!({
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{
                        "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                        "args": [{ "index": 2, "value": value, "valueTwo": second, "op": op }],
                    }],
                }));
                for arg in values {
                    let got = run(&program, 56, [9, 9, arg, 9, 9, 9]);
                    let expected = if holds(arg, value, second) {
                        RET_ALLOW
                    } else {
                        RET_ERRNO | 1
                    };
                    assert_eq!(got, expected, "{arg:#x} {op} {value:#x} {second:#x}");
                }
            }
        }
    }
}

#[test]
fn conditions_add_up_and_several_on_one_argument_are_alternatives() {
    let arg =
        |index: u32, value: u64| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
    let with = |args: Value| {
        compiled(json!({
            "defaultAction": "SCMP_ACT_KILL",
            "syscalls": [{ "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": args }],
        }))
    };
    let both = with(json!([arg(0, 1), arg(1, 2)]));
    assert_eq!(run(&both, 41, [1, 2, 0, 0, 0, 0]), RET_ALLOW);
    assert_eq!(run(&both, 41, [1, 3, 0, 0, 0, 0]), RET_KILL_THREAD);
    assert_eq!(run(&both, 41, [2, 2, 0, 0, 0, 0]), RET_KILL_THREAD);
    let either = with(json!([arg(0, 1), arg(0, 2)]));
    for (first, expected) in [(1, RET_ALLOW), (2, RET_ALLOW), (3, RET_KILL_THREAD)] {
        assert_eq!(run(&either, 41, [first, 0, 0, 0, 0, 0]), expected);
    }
}

#[test]
fn what_cannot_be_carried_over_is_named() {
    for (profile, word) in [
        (json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), "NOTIFY"),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"] }),
            "X",
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"] }),
            "x86-64",
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "more": 1 }),
            "malformed",
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["read"],
                "action": "SCMP_ACT_KILL", "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] }] }),
            "argument 6",
        ),
    ] {
        let error = compile(profile).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_profile_that_lists_every_other_call_fits() {
    let names: Vec<_> = syscalls::Sysno::iter()
        .step_by(2)
        .map(|call| call.name())
        .collect();
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    }))
    .unwrap();
    assert!(filter.program.len() / 8 < MAX_INSTRUCTIONS / 2);
}
