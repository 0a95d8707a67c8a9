//! Classic BPF over `struct seccomp_data` (linux/seccomp.h), as far as profiles need it.

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// AUDIT_ARCH_X86_64
const X86_64: u32 = 0xc000_003e;

/// What an argument is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// !=
    NotEqual(u64),
    /// ==
    Equal(u64),
    /// <
    Less(u64),
    /// <=
    LessOrEqual(u64),
    /// >
    Greater(u64),
    /// >=
    GreaterOrEqual(u64),
    /// argument & mask == value
    MaskedEqual {
        /// Bits that count.
        mask: u64,
        /// What they have to be.
        value: u64,
    },
}

/// A condition on one argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its number, from 0.
    pub argument: u32,
    /// What has to hold.
    pub comparison: Comparison,
}

/// Where a jump of a condition leads.
#[derive(Clone, Copy)]
enum To {
    Next,
    Holds,
    Fails,
}

/// A jump that has not landed yet.
#[must_use]
pub struct Branch(usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A program on its way.
#[derive(Debug)]
pub struct Program(pub(super) Vec<Instruction>);

impl Program {
    /// Begins with the number of the system call in hand; calls of other processors' tables end in
    /// `foreign`.
    pub fn new(foreign: u32) -> Self {
        let mut program = Self(Vec::new());
        program.plain(LOAD, ARCHITECTURE);
        program.jump(EQUAL, X86_64, 1, 0);
        program.ret(foreign);
        program.plain(LOAD, NUMBER);
        program
    }

    /// Instructions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The answer.
    pub fn ret(&mut self, value: u32) {
        self.plain(RETURN, value);
    }

    /// Goes elsewhere if what is in hand is `value` or more.
    pub fn branch_if_at_least(&mut self, value: u32) -> Branch {
        self.jump(AT_LEAST, value, 0, 1);
        self.plain(JUMP, 0);
        Branch(self.0.len() - 1)
    }

    /// `branch` leads to what comes next.
    pub fn land(&mut self, branch: Branch) {
        let distance = self.0.len() - branch.0 - 1;
        self.0[branch.0].k = u32::try_from(distance).unwrap_or(u32::MAX);
    }

    /// The answer is `value` if all conditions hold. Afterwards an argument is in hand.
    pub fn if_all(&mut self, conditions: &[Condition], value: u32) {
        let mut code: Vec<(Instruction, To, To)> = Vec::new();
        let mut ends = Vec::new();
        for condition in conditions {
            compare(&mut code, *condition);
            ends.push(code.len());
        }
        // One more for the answer itself.
        let failed = code.len() + 1;
        for (at, (mut instruction, yes, no)) in code.into_iter().enumerate() {
            let holds = ends.iter().copied().find(|end| *end > at).unwrap_or(failed);
            let distance = |to| match to {
                To::Next => 0,
                To::Holds => offset(at, holds),
                To::Fails => offset(at, failed),
            };
            (instruction.jt, instruction.jf) = (distance(yes), distance(no));
            self.0.push(instruction);
        }
        self.ret(value);
    }

    /// As the kernel takes it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 8);
        for instruction in &self.0 {
            bytes.extend_from_slice(&instruction.code.to_le_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_le_bytes());
        }
        bytes
    }

    fn plain(&mut self, code: u16, k: u32) {
        self.jump(code, k, 0, 0);
    }

    fn jump(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.0.push(Instruction { code, jt, jf, k });
    }
}

/// From the instruction at `at` to the one at `to`. Six conditions of six instructions are the most.
fn offset(at: usize, to: usize) -> u8 {
    u8::try_from(to - at - 1).unwrap_or(u8::MAX)
}

fn compare(code: &mut Vec<(Instruction, To, To)>, condition: Condition) {
    use To::{Fails, Holds, Next};
    let low = ARGUMENTS + 8 * condition.argument;
    let high = low + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let mut push = |op: u16, k: u32, yes: To, no: To| {
        let instruction = Instruction {
            code: op,
            jt: 0,
            jf: 0,
            k,
        };
        code.push((instruction, yes, no));
    };
    // Both halves by the same pattern: the high one decides unless it is equal.
    let mut ordered = |value: u64, op: u16, yes: To, no: To| {
        let (top, bottom) = halves(value);
        push(LOAD, high, Next, Next);
        push(GREATER, top, yes, Next);
        push(EQUAL, top, Next, no);
        push(LOAD, low, Next, Next);
        push(op, bottom, yes, no);
    };
    match condition.comparison {
        Comparison::Greater(value) => ordered(value, GREATER, Holds, Fails),
        Comparison::GreaterOrEqual(value) => ordered(value, AT_LEAST, Holds, Fails),
        Comparison::Less(value) => ordered(value, AT_LEAST, Fails, Holds),
        Comparison::LessOrEqual(value) => ordered(value, GREATER, Fails, Holds),
        Comparison::Equal(value) => masked(&mut push, low, u64::MAX, value, Holds, Fails),
        Comparison::NotEqual(value) => masked(&mut push, low, u64::MAX, value, Fails, Holds),
        Comparison::MaskedEqual { mask, value } => {
            masked(&mut push, low, mask, value, Holds, Fails);
        }
    }
}

fn masked(
    push: &mut impl FnMut(u16, u32, To, To),
    low: u32,
    mask: u64,
    value: u64,
    yes: To,
    no: To,
) {
    use To::Next;
    push(LOAD, low + 4, Next, Next);
    push(AND, (mask >> 32) as u32, Next, Next);
    push(EQUAL, (value >> 32) as u32, Next, no);
    push(LOAD, low, Next, Next);
    push(AND, mask as u32, Next, Next);
    push(EQUAL, value as u32, yes, no);
}
