//! Kernels and initramfs files that are missing, damaged or made to do harm.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::harness::{Bench, Outcome, file, guest_dir};
use crate::rootfs::TempDir;

fn kernel(bench: &Bench, path: &Path) -> Outcome {
    bench
        .sh_with(["--kernel".as_ref(), path.as_os_str()], "true")
        .outcome()
}

fn initrd(bench: &Bench, path: &Path) -> Outcome {
    bench
        .sh_with(["--initrd".as_ref(), path.as_os_str()], "true")
        .outcome()
}

#[test]
fn a_missing_guest_is_an_error_that_says_how_to_make_it() {
    let bench = Bench::new();
    let empty = TempDir::new();
    let outcome = bench
        .sh("true")
        .env("PODVMM_GUEST_DIR", empty.path())
        .outcome();
    outcome.refused(&["make"]);
}

#[test]
fn files_that_are_no_kernel() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let random: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let cases = [
        dir.join("missing"),
        dir.path().to_path_buf(),
        file(dir.path(), "empty", b""),
        file(dir.path(), "text", b"#!/bin/sh\necho I am no kernel\n"),
        file(dir.path(), "random", &random),
        file(dir.path(), "magic", b"\x7fELF"),
    ];
    for path in cases {
        kernel(&bench, &path).refused(&["--kernel", path.to_str().unwrap()]);
    }
}

#[test]
fn a_kernel_that_was_cut_short() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let whole = fs::read(guest_dir().join("vmlinux")).unwrap();
    for len in [16, 64, 100, 4096, whole.len() / 2] {
        let path = file(dir.path(), &format!("cut-{len}"), &whole[..len]);
        kernel(&bench, &path).refused(&["--kernel", path.to_str().unwrap()]);
    }
}

/// Writes a 64-bit or 32-bit number into a copy of the kernel, at an offset of its first program
/// header or of its ELF header.
fn damaged(dir: &TempDir, name: &str, offset: u64, value: &[u8]) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::copy(guest_dir().join("vmlinux"), &path).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(value, offset)
        .unwrap();
    path
}

#[test]
fn a_kernel_whose_headers_lie() {
    let bench = Bench::new();
    let dir = TempDir::new();
    const FIRST_PROGRAM_HEADER: u64 = 64;
    let (offset, address, file_size, memory_size) = (8, 24, 32, 40);
    let at = |field| FIRST_PROGRAM_HEADER + field;
    let far = 0xffff_ffff_ffff_f000_u64.to_le_bytes();
    let beyond = 0x40_0000_0000_u64.to_le_bytes();
    let cases = [
        damaged(&dir, "machine", 18, &[0xb7, 0]), // another architecture
        damaged(&dir, "headers-at", 32, &far),
        damaged(&dir, "header-count", 56, &[0xff, 0xff]),
        damaged(&dir, "segment-offset", at(offset), &far),
        damaged(&dir, "segment-address", at(address), &beyond),
        damaged(&dir, "segment-wraps", at(address), &far),
        damaged(&dir, "segment-length", at(file_size), &far),
        damaged(&dir, "segment-memory", at(memory_size), &far),
    ];
    for path in cases {
        kernel(&bench, &path).refused(&["--kernel", path.to_str().unwrap()]);
    }
}

#[test]
fn a_kernel_that_crashes_at_once_is_reported() {
    let bench = Bench::new();
    let dir = TempDir::new();
    // The entry point leads into nothing: a triple fault, or no end, which --timeout bounds.
    let path = damaged(&dir, "entry", 24, &0x10_u64.to_le_bytes());
    let options = [
        "--timeout".as_ref(),
        "5s".as_ref(),
        "--kernel".as_ref(),
        path.as_os_str(),
    ];
    let outcome = bench.sh_with(options, "true").outcome();
    assert!(matches!(outcome.code, Some(124 | 125)), "{outcome:?}");
    assert!(
        !outcome.stderr.is_empty() && !outcome.stderr.contains("panicked at"),
        "{outcome:?}"
    );
}

#[test]
fn files_that_are_no_initramfs() {
    let bench = Bench::new();
    let dir = TempDir::new();
    for path in [
        dir.join("missing"),
        dir.path().to_path_buf(),
        file(dir.path(), "empty", b""),
    ] {
        initrd(&bench, &path).refused(&["--initrd", path.to_str().unwrap()]);
    }
}

#[test]
fn an_initramfs_larger_than_memory() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let path = dir.join("large");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    initrd(&bench, &path).refused(&["--initrd", path.to_str().unwrap()]);
}

#[test]
fn an_initramfs_that_is_damaged_ends_with_the_guests_last_words() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let whole = fs::read(guest_dir().join("initramfs")).unwrap();
    let cut = file(dir.path(), "cut", &whole[..whole.len() / 2]);
    let text = file(dir.path(), "text", &b"not an archive\n".repeat(1000));
    for path in [cut, text] {
        initrd(&bench, &path).failed(125, &["panic"]);
    }
}
