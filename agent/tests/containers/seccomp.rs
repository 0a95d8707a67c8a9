//! Seccomp filters.

use agent_protocol::proto::{StartContainerRequest, start_error};
use serde_json::json;
use ttrpc::Code;

use crate::Case;
use crate::config::Config;
use crate::exec;
use crate::pod::{Pod, code, context};
use agent_protocol::proto::stream_open::Stream;

pub const CASES: &[Case] = &[
    ("a_filter_is_in_force", a_filter_is_in_force),
    (
        "a_filter_concerns_the_command_only",
        a_filter_concerns_the_command_only,
    ),
    (
        "a_filter_comes_without_privileges",
        a_filter_comes_without_privileges,
    ),
    ("a_wrong_filter_is_told", a_wrong_filter_is_told),
];

const ALLOW: u32 = 0x7fff_0000;
/// "Value too large for defined data type", which nothing here would say by itself.
const EOVERFLOW: u32 = 0x0005_0000 | 75;

/// A program that lets `denied` fail and all other system calls pass.
fn denying(denied: &[i64]) -> Vec<u8> {
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        let mut bytes = code.to_le_bytes().to_vec();
        bytes.extend([jt, jf]);
        bytes.extend(k.to_le_bytes());
        bytes
    };
    // Loads the number, then compares it with each.
    let mut program = instruction(0x20, 0, 0, 0);
    for (index, number) in denied.iter().enumerate() {
        let to_the_end = (denied.len() - index) as u8;
        program.extend(instruction(0x15, to_the_end, 0, *number as u32));
    }
    program.extend(instruction(0x06, 0, 0, ALLOW));
    program.extend(instruction(0x06, 0, 0, EOVERFLOW));
    program
}

fn a_filter_is_in_force(pod: &Pod) {
    let script = "mkdir /made 2>&1; grep ^Seccomp: /proc/self/status; exec sleep 1000";
    let mut config = Config::script(script);
    config.seccomp_bpf = denying(&[libc::SYS_mkdir, libc::SYS_mkdirat]);
    pod.must_create("c", &config);
    let mut stdout = pod.attach("c", Stream::STDOUT);
    drop(pod.attach("c", Stream::STDERR));
    assert_eq!(pod.begin("c"), None);
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.contains("Seccomp:\t2\n") {
        assert_eq!(
            std::io::Read::read(&mut stdout, &mut byte).unwrap(),
            1,
            "{seen}"
        );
        seen.push(byte[0].into());
    }
    assert!(seen.contains("Value too large"), "{seen}");
    // Further processes have it as well.
    let seen = exec::run_and_forget(
        pod,
        "c",
        "mkdir /made 2>&1; grep ^Seccomp: /proc/self/status",
    );
    assert!(
        seen.contains("Value too large") && seen.contains("Seccomp:\t2\n"),
        "{seen}"
    );
    assert_eq!(
        pod.script("free", "mkdir /made; grep ^Seccomp: /proc/self/status"),
        "Seccomp:\t0\n"
    );
}

fn a_filter_concerns_the_command_only(pod: &Pod) {
    // What the agent does on the way there is not the filter's business.
    let denied = [
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setgroups,
        libc::SYS_prctl,
        libc::SYS_prlimit64,
        libc::SYS_setrlimit,
        libc::SYS_umask,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_sendmsg,
        libc::SYS_recvfrom,
    ];
    for no_new_privileges in [true, false] {
        let mut config = Config::command(&["cat", "/proc/self/status"]);
        config.spec["process"]["user"] = json!({"uid": 1234, "gid": 2345, "additionalGids": [7]});
        config.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        config.seccomp_bpf = denying(&denied);
        let id = format!("c{no_new_privileges}");
        let seen = pod.run(&id, &config, b"").stdout_text();
        let none = format!("{:016x}", 0);
        for line in [
            "Uid:\t1234\t1234\t1234\t1234",
            "Gid:\t2345\t2345\t2345\t2345",
            "Seccomp:\t2",
            &format!("CapEff:\t{none}"),
            &format!("NoNewPrivs:\t{}", u8::from(no_new_privileges)),
        ] {
            assert!(seen.contains(line), "{line}: {seen}");
        }
    }
}

fn a_filter_comes_without_privileges(pod: &Pod) {
    // Installing it takes CAP_SYS_ADMIN, of which nothing is left.
    let mut config = Config::command(&["grep", "^Cap", "/proc/self/status"]);
    config.spec["process"]["noNewPrivileges"] = json!(false);
    let capabilities = ["CAP_KILL"];
    config.spec["process"]["capabilities"] = json!({"bounding": capabilities, "permitted": capabilities,
        "effective": capabilities, "inheritable": capabilities, "ambient": capabilities});
    config.seccomp_bpf = denying(&[]);
    let seen = pod.run("c", &config, b"").stdout_text();
    let expected: String = ["Inh", "Prm", "Eff", "Bnd", "Amb"]
        .map(|set| format!("Cap{set}:\t{:016x}\n", 1 << 5))
        .concat();
    assert_eq!(seen, expected);
}

fn a_wrong_filter_is_told(pod: &Pod) {
    let mut config = Config::script("true");
    config.seccomp_bpf = vec![0; 12];
    assert_eq!(code(pod.create("c", &config)), Code::INVALID_ARGUMENT);
    // No program: it does not end.
    config.seccomp_bpf = vec![0; 16];
    pod.must_create("c", &config);
    drop([Stream::STDOUT, Stream::STDERR].map(|stream| pod.attach("c", stream)));
    let request = StartContainerRequest {
        container_id: "c".to_owned(),
        ..Default::default()
    };
    let response = pod.client.start_container(context(), &request).unwrap();
    let error = response.start_error.unwrap();
    assert_eq!(error.kind.unwrap(), start_error::Kind::OTHER);
    assert!(
        error.message.contains("seccomp filter"),
        "{}",
        error.message
    );
    pod.wait("c");
}
