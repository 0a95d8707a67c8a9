//! The system calls that each kind of thread may make, each with its reason.
//!
//! Calls of the hot path have no conditions: the kernel then knows from the number alone that they are
//! allowed (Linux 5.11 and newer), and runs no filter.

use libc::*;

use super::Thread;

/// Under which condition a call is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Always,
    /// Argument number `.0`, of 32 bits, is one of these.
    Is(u8, &'static [u32]),
    /// None of the bits `.1` is set in argument number `.0`.
    Without(u8, u64),
    /// Argument number `.0` is this process.
    OnSelf(u8),
}

/// A system call that is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub number: c_long,
    pub when: When,
}

/// A list of calls; the reasons are for readers. `unseen` says why a call is listed that no end-to-end
/// test leads to; `tests/tools/syscalls` goes by it.
macro_rules! calls {
    ($($number:ident $(when $when:expr)? , $reason:literal $(, unseen $why:literal)?;)*) => {
        &[$(Call { number: $number, when: condition!($($when)?) }),*]
    };
}
macro_rules! condition {
    () => {
        When::Always
    };
    ($when:expr) => {
        $when
    };
}

use When::{Is, OnSelf, Without};

const NOT_EXECUTABLE: When = Without(2, PROT_EXEC as u64);
/// What glibc starts a thread with. A process is something else.
const NEW_THREAD: u32 = (CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID) as u32;

/// What every thread may do.
const COMMON: &[Call] = calls![
    SYS_futex, "locks, and waiting for other threads";
    SYS_write, "rings event file descriptors; log lines; the console's file";
    SYS_writev, "a frame of the guest; the C library's last words";
    SYS_close, "descriptors that it has done with";
    SYS_munmap, "gives memory back, its stack for signals among it when it ends";
    SYS_mmap when NOT_EXECUTABLE, "more memory";
    SYS_mremap, "the allocator grows and shrinks large blocks";
    SYS_brk, "the allocator, whose one heap this is";
    SYS_madvise when Is(2, &[MADV_DONTNEED as u32, MADV_FREE as u32, MADV_HUGEPAGE as u32,
        MADV_NOHUGEPAGE as u32, MADV_DONTDUMP as u32]),
        "the allocator, the end of a thread, the balloon and unplugged memory give pages back; guest memory has huge pages but where a kernel hardly uses one, and is in no dump";
    SYS_clock_gettime, "time, where the kernel offers no vDSO", unseen "kernels that tests run on do";
    SYS_getrandom, "seeds of hash tables; random numbers for the guest; numbers of a file session";
    SYS_fcntl when Is(1, &[F_DUPFD_CLOEXEC as u32, F_GETFD as u32, F_GETFL as u32]),
        "clones descriptors; debug builds check that they are open";
    SYS_rt_sigreturn, "the end of a signal handler: a kicked vCPU's, or the one for an overflown stack";
    SYS_restart_syscall, "a call with a time limit goes on after SIGSTOP and SIGCONT",
        unseen "nobody stops a VMM that waits";
    SYS_rt_sigprocmask, "signals are held back while a thread starts or ends, and in abort()";
    SYS_sigaltstack, "the stack for signals of a thread that starts or ends";
    SYS_gettid, "its number, for the name of the thread that overflows its stack, and for abort()";
    SYS_getpid, "the process's number, for abort()";
    SYS_tgkill when OnSelf(0), "kicks vCPUs; abort() after a panic";
    SYS_rt_sigaction, "abort() sets the signal back to its default";
    SYS_prctl when Is(0, &[PR_GET_NAME as u32]), "the name of the thread whose call is refused";
    SYS_sched_yield, "a lock that is about to be free", unseen "takes two threads that meet at one";
    SYS_exit, "the end of a thread";
    SYS_exit_group, "the end of the process";
];

/// What starting a thread takes: before its own filter is in place, and in the thread that starts it.
const START_THREADS: &[Call] = calls![
    SYS_clone when Is(0, &[NEW_THREAD]), "a thread, and never a process";
    SYS_clone3, "gets ENOSYS from a filter of its own, since its flags are in memory; glibc then takes clone";
    SYS_mprotect when NOT_EXECUTABLE, "the guard pages below a thread's stack and its stack for signals";
    SYS_rseq, "glibc registers each thread for restartable sequences";
    SYS_set_robust_list, "glibc registers each thread's robust locks";
    SYS_sched_getaffinity, "glibc finds the bounds of a thread's stack";
    SYS_prctl when Is(0, &[PR_SET_NAME as u32, PR_SET_NO_NEW_PRIVS as u32]),
        "the thread's name; the filter's crate makes sure that it may install one";
    SYS_seccomp, "the thread's own filter. One more can only take rights away";
];

/// The thread that builds the machine, starts and stops devices, and waits.
const MAIN: &[Call] = calls![
    SYS_ioctl when Is(1, MACHINE), "makes the machine; sets up taps";
    SYS_eventfd2, "doorbells, interrupt lines, the device workers' stop signals";
    SYS_epoll_create1, "what the vsock worker waits with";
    SYS_epoll_ctl, "what it waits for";
    SYS_statx, "length of kernel and initramfs; exports of files", unseen "the thread that loads them makes it";
    SYS_fstat, "exports of files";
    SYS_capget, "whether the file server may give files away";
    SYS_dup, "the file server's own descriptor of /proc/self/fd";
    SYS_read, "frames that are too old when the driver of a network device starts";
    SYS_sendmsg, "reports to the sandbox";
    SYS_clock_nanosleep, "waits for a kicked vCPU";
];

/// Those of [`MAIN`] for KVM, and the one that makes a socket non-blocking. The one for the hot path
/// comes first.
const MACHINE: &[u32] = &[
    KVM_RUN,
    FIONBIO as u32, // the vsock listener and taps wait for nobody
    TUNGETIFF as u32,
    TUNSETVNETHDRSZ as u32,
    TUNSETOFFLOAD as u32,
    kvm(0x00),        // KVM_GET_API_VERSION
    kvm(0x01),        // KVM_CREATE_VM
    kvm(0x03),        // KVM_CHECK_EXTENSION
    kvm(0x04),        // KVM_GET_VCPU_MMAP_SIZE
    both(0x05, 8),    // KVM_GET_SUPPORTED_CPUID
    kvm(0x41),        // KVM_CREATE_VCPU
    into(0x46, 32),   // KVM_SET_USER_MEMORY_REGION
    kvm(0x47),        // KVM_SET_TSS_ADDR
    into(0x48, 8),    // KVM_SET_IDENTITY_MAP_ADDR
    into(0x6a, 8),    // KVM_SET_GSI_ROUTING
    into(0x76, 32),   // KVM_IRQFD
    into(0x79, 64),   // KVM_IOEVENTFD
    into(0x82, 144),  // KVM_SET_REGS
    from(0x83, 312),  // KVM_GET_SREGS
    into(0x84, 312),  // KVM_SET_SREGS
    into(0x89, 8),    // KVM_SET_MSRS
    into(0x8d, 416),  // KVM_SET_FPU
    from(0x8e, 1024), // KVM_GET_LAPIC
    into(0x8f, 1024), // KVM_SET_LAPIC
    into(0x90, 8),    // KVM_SET_CPUID2
    into(0xa3, 104),  // KVM_ENABLE_CAP
];

/// The thread that hears from the sandbox.
const CONTROL: &[Call] = calls![
    SYS_ppoll, "waits for orders and for the end of the sandbox";
    SYS_recvmsg, "orders of the sandbox, and the shares and disks that come with them; that it has gone";
    SYS_sendmsg, "answers";
    SYS_fstat, "what kind of file a share is", unseen "only pods of containerd get shares while they run";
];

/// A virtual CPU. Devices are started and stopped by the first thread.
const VCPU: &[Call] = calls![
    SYS_ioctl when Is(1, &[KVM_RUN, KVM_GET_REGS]), "runs the guest; tells where it failed";
];

const VSOCK: &[Call] = calls![
    SYS_epoll_wait, "waits for doorbells, connections and data";
    SYS_epoll_ctl, "watches each connection";
    SYS_recvmsg, "from a host program into guest memory";
    SYS_sendmsg, "from guest memory to a host program; the answer to the line by which it says which port it wants";
    SYS_recvfrom, "the line by which a host program says which port it wants; what is left of closed streams";
    SYS_accept4, "host programs that connect";
    SYS_socket when Is(0, &[AF_UNIX as u32]), "a connection of the guest to a program of the host";
    SYS_connect, "the same; of the network there are only sockets in the root directory";
    SYS_shutdown, "one side is done, the other is not";
    SYS_ioctl when Is(1, &[FIONBIO as u32]), "sockets that wait for nobody";
];

const RNG: &[Call] = calls![
    SYS_read, "its doorbell";
];

/// It gives memory back by the `madvise` that every thread has.
const BALLOON: &[Call] = calls![
    SYS_read, "its doorbell";
];

/// And so does it.
const MEM: &[Call] = calls![
    SYS_read, "its doorbell";
];

const NET: &[Call] = calls![
    SYS_epoll_wait, "waits for doorbells and frames";
    SYS_epoll_ctl, "watches the tap for what it waits for";
    SYS_readv, "a frame into guest memory";
];

const BLK: &[Call] = calls![
    SYS_read, "its doorbell";
    SYS_preadv, "IN, into guest memory";
    SYS_pwritev2, "OUT, from guest memory";
    SYS_fdatasync, "FLUSH";
    SYS_fallocate, "DISCARD, WRITE_ZEROES";
];

const FS: &[Call] = calls![
    SYS_read, "its doorbell";
    SYS_unshare when Is(0, &[CLONE_FS as u32]), "a file mode mask of its own";
    SYS_umask, "clears it: modes come from the guest";
    SYS_openat2, "LOOKUP, CREATE: beneath an export and through no link";
    SYS_openat, "OPEN: anew from a descriptor by /proc/self/fd; OPENDIR; temporary files";
    SYS_statx, "attributes";
    SYS_preadv, "READ into guest memory";
    SYS_pwritev2, "WRITE from guest memory";
    SYS_getdents64, "READDIR";
    SYS_lseek, "READDIR; holes in files";
    SYS_readlinkat, "READLINK";
    SYS_fstatfs, "STATFS";
    SYS_fgetxattr, "GETXATTR";
    SYS_flistxattr, "LISTXATTR";
    SYS_fsetxattr, "SETXATTR";
    SYS_fremovexattr, "REMOVEXATTR";
    SYS_mkdirat, "MKDIR";
    SYS_mknodat, "MKNOD: files, FIFOs, sockets, and overlayfs' whiteouts";
    SYS_symlinkat, "SYMLINK";
    SYS_linkat, "LINK";
    SYS_unlinkat, "UNLINK, RMDIR";
    SYS_renameat2, "RENAME, RENAME2";
    SYS_fchmodat, "SETATTR: mode";
    SYS_fchown, "the owner of a new file";
    SYS_fchownat, "SETATTR: owner; the owner of what was made by name";
    SYS_utimensat, "SETATTR: times";
    SYS_ftruncate, "SETATTR: size";
    SYS_fallocate, "FALLOCATE";
    SYS_copy_file_range, "COPY_FILE_RANGE";
    SYS_fsync, "FSYNC";
    SYS_fdatasync, "FSYNC of data only";
    SYS_syncfs, "SYNCFS";
];

/// The parts of a thread's list.
pub(super) fn of(thread: Thread) -> Vec<&'static [Call]> {
    match thread {
        Thread::Main => [COMMON, START_THREADS, MAIN]
            .into_iter()
            // A thread inherits the filter of the one that starts it, which is this one.
            .chain([CONTROL, VCPU, VSOCK, RNG, BALLOON, MEM, NET, BLK, FS])
            .collect(),
        Thread::Control => vec![COMMON, CONTROL],
        Thread::Vcpu => vec![COMMON, VCPU],
        Thread::Vsock => vec![COMMON, VSOCK],
        Thread::Rng => vec![COMMON, RNG],
        Thread::Balloon => vec![COMMON, BALLOON],
        Thread::Mem => vec![COMMON, MEM],
        Thread::Net => vec![COMMON, NET],
        Thread::Blk => vec![COMMON, BLK],
        Thread::Fs => vec![COMMON, FS],
    }
}

const KVM_RUN: u32 = kvm(0x80);
const KVM_GET_REGS: u32 = from(0x81, 144);

/// An ioctl of KVM without an argument in memory.
const fn kvm(number: u32) -> u32 {
    const KVMIO: u32 = 0xae;
    KVMIO << 8 | number
}

/// One whose argument of `size` bytes the kernel reads.
const fn into(number: u32, size: u32) -> u32 {
    1 << 30 | size << 16 | kvm(number)
}

/// One whose argument the kernel writes.
const fn from(number: u32, size: u32) -> u32 {
    2 << 30 | size << 16 | kvm(number)
}

/// One whose argument the kernel reads and writes.
const fn both(number: u32, size: u32) -> u32 {
    into(number, size) | from(number, size)
}
