use super::*;

#[test]
fn every_list_becomes_a_filter_and_none_has_a_call_twice() {
    for mode in [SeccompMode::Enforce, SeccompMode::Log] {
        let filters = Filters::new(mode).unwrap();
        assert_eq!(filters.0.len(), Thread::ALL.len());
    }
    assert!(Filters::new(SeccompMode::Off).unwrap().0.is_empty());
    for thread in Thread::ALL.into_iter().filter(|t| *t != Thread::Main) {
        let mut numbers: Vec<_> = lists::of(thread)
            .into_iter()
            .flatten()
            .map(|call| call.number)
            .collect();
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "{thread:?}");
    }
}

#[test]
fn no_list_has_what_leads_out_of_a_jail() {
    const NEVER: &[libc::c_long] = &[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_ptrace,
        libc::SYS_process_vm_writev,
        libc::SYS_kill,
        libc::SYS_mount,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_setfsuid,
        libc::SYS_capset,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_open_by_handle_at,
        libc::SYS_pkey_mprotect,
        libc::SYS_memfd_create,
        libc::SYS_personality,
        libc::SYS_open,
    ];
    for thread in Thread::ALL {
        for call in lists::of(thread).into_iter().flatten() {
            assert!(
                !NEVER.contains(&call.number),
                "{thread:?}: {:?}",
                syscalls::Sysno::new(call.number as usize)
            );
        }
    }
}

#[test]
fn modes_are_read_as_they_are_written() {
    for mode in [SeccompMode::Enforce, SeccompMode::Log, SeccompMode::Off] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert!("on".parse::<SeccompMode>().unwrap_err().contains("enforce"));
}
