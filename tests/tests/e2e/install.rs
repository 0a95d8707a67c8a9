//! `podvmm install` on a machine with containerd: the five commands of docs/install.md, containerd's
//! configuration in all its forms, and the script of the DaemonSet.
//!
//! A machine of its own is made of this one: `/etc`, `/usr/local` and `/var/lib` can be changed and are
//! as they were afterwards, `/run` is empty, processes end with the test. containerd is the real one; what
//! starts it, and starts it again, is the test.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Bench, Outcome, Run};
use crate::rootfs::TempDir;

/// Where service managers look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes the machine, then runs what follows.
const MACHINE: &str = r#"
set -eu
mount -t tmpfs machine "$WORK"
for dir in /etc /usr/local /var/lib; do
  mkdir -p "$WORK$dir/upper" "$WORK$dir/work"
  mount -t overlay -o "lowerdir=$dir,upperdir=$WORK$dir/upper,workdir=$WORK$dir/work" machine "$dir"
done
mount -t tmpfs machine /run
mkdir -p /run/containerd /var/lib/containerd
mount -t tmpfs machine /var/lib/containerd
cd "$WORK"
cp "$ARCHIVE" podvmm.tar.gz

start_containerd() {
  containerd >>containerd.log 2>&1 &
  echo $! >containerd.pid
  for _ in $(seq 600); do
    ! ctr version >/dev/null 2>&1 || return 0
    sleep 0.1
  done
  tail -n 20 containerd.log >&2
  return 1
}
stop_containerd() {
  kill "$(cat containerd.pid)"
  for _ in $(seq 600); do
    kill -0 "$(cat containerd.pid)" 2>/dev/null || return 0
    sleep 0.1
  done
  return 1
}
# Everything that an installation may change: what there is, and what containerd's files say.
state() {
  find /etc /usr/local /run -maxdepth 4 \( -path /run/containerd -o -path /etc/cni \) -prune -o -printf '%p %m %l\n' | sort
  find /tmp -maxdepth 1 -name 'podvmm-install*'
  grep -r . /etc/containerd 2>/dev/null | sort || true
}
fail() { echo "$*" >&2; exit 1; }
"#;

/// Runs a script on such a machine to its end.
fn on_a_machine(script: &str) -> Outcome {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let archive = repository.join("build/podvmm.tar.gz");
    assert!(
        archive.exists(),
        "{} is missing: run `make dist`",
        archive.display()
    );
    let extra: Vec<_> = std::env::var("PATH")
        .unwrap_or_default()
        .split(':')
        .map(str::to_owned)
        .collect();
    // Another containerd than the machine's is tested by putting its directory first.
    let containerd = extra
        .iter()
        .find(|dir| Path::new(dir).join("containerd").is_file());
    let containerd = containerd.expect("containerd is not installed: run `tests/tools/setup cri`");
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args([
            "bash",
            "-c",
            &format!("WORK=$1 ARCHIVE=$2 REPOSITORY=$3\n{MACHINE}\n{script}"),
            "bash",
        ]);
    let work = TempDir::new();
    command.arg(work.path()).arg(&archive).arg(repository);
    command
        .env_clear()
        .env("PATH", format!("/usr/local/bin:{containerd}:{PATH}"))
        .env("HOME", "/root");
    if let Some(lab) = std::env::var_os("LAB") {
        command.env("LAB", lab);
    }
    Run::new(command).within(60).outcome()
}

/// The commands of the page's first block.
fn page() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page
        .split_once("```sh\n")
        .expect("the page has a block of commands");
    let (block, _) = rest.split_once("```").expect("the block ends");
    block.lines().map(str::to_owned).collect()
}

/// What is between the line `== NAME` and the next one.
#[track_caller]
fn part<'t>(outcome: &'t str, name: &str) -> &'t str {
    let head = format!("== {name}\n");
    let (_, rest) = outcome
        .split_once(&head)
        .unwrap_or_else(|| panic!("no {name} in {outcome}"));
    rest.split("== ").next().unwrap_or_default()
}

#[test]
fn five_commands() {
    let _bench = Bench::new();
    let commands = page();
    assert_eq!(commands.len(), 5, "{commands:?}");
    let mut script = String::from("start_containerd\nstate >before\n");
    for (number, command) in commands.iter().enumerate() {
        script += &format!("echo '== {number}'\n{command}\n");
    }
    script += r#"
echo '== host'; uname -r
echo '== refused'
ctr run -d --read-only --runtime io.containerd.podvmm.v2 --rootfs / stays sleep 1000
status=0; podvmm uninstall || status=$?
[ "$status" = 1 ] || fail "uninstall ended with $status while a pod ran"
test -x /usr/local/bin/containerd-shim-podvmm-v2
ctr task kill -s SIGKILL stays
for _ in $(seq 300); do ctr task rm stays >/dev/null 2>&1 && break; sleep 0.1; done
ctr container rm stays
for _ in $(seq 300); do pgrep -x containerd-shim >/dev/null || break; sleep 0.1; done
echo '== uninstall'
podvmm/bin/podvmm uninstall
rm -rf podvmm podvmm.tar.gz
stop_containerd
state >after
diff before after >&2 || fail "left behind"
"#;
    let outcome = on_a_machine(&script).status(0);
    let text = outcome.text();
    assert!(part(&text, "1").starts_with("Ready"), "{text}");
    assert!(part(&text, "2").contains("podvmm is installed"), "{text}");
    let host = part(&text, "host");
    for number in ["3", "4"] {
        let kernel = part(&text, number).trim_end();
        assert!(kernel.ends_with("-podvmm") && kernel != host, "{text}");
    }
    assert!(
        part(&text, "refused").contains("Refused: pods are running"),
        "{text}"
    );
    assert!(
        part(&text, "uninstall").contains("not installed any more"),
        "{text}"
    );
}

/// Puts a configuration in place, installs, asks containerd what it makes of it, uninstalls.
fn with_configuration(more: &str) -> Outcome {
    let script = format!(
        r#"
podvmm=$(tar -xzf podvmm.tar.gz && echo "$PWD/podvmm/bin/podvmm")
major=$(containerd --version | grep -oE '[ v][0-9]+\.[0-9]+\.[0-9]+' | head -n 1 | tr -d ' v' | cut -d . -f 1)
show=dump; [ "$major" -lt 2 ] || show=migrate
config=/etc/containerd/config.toml
effective() {{
  if [ -e $config ]; then containerd config "$show"; else containerd config default; fi 2>/dev/null |
    grep -v '^imports'
}}
fresh() {{ rm -rf /etc/containerd; mkdir -p /etc/containerd/conf.d; cat >$config; }}
try() {{ # NAME: what is there has to stay, and the handler to come and go
  effective >before; state >before.state
  "$podvmm" install --json >outcome || fail "$1: install"
  effective >after
  # Nothing is lost, and every line that came is the handler's or runc's, which was there by itself.
  diff <(tr -d ' ' <before | sort) <(tr -d ' ' <after | sort) | grep '^<' && fail "$1: lost"
  grep -qF runtimes.podvmm] after || fail "$1: no handler"
  grep -qF runtimes.runc] after || fail "$1: no runc"
  "$podvmm" install --json >again
  ! grep -qE '"action": "(new|changed)"' again || fail "$1: not the same the second time"
  "$podvmm" uninstall >/dev/null
  state | diff before.state - >&2 || fail "$1: left behind"
}}
refused() {{ # NAME WORD: nothing is done
  state >before.state; status=0
  "$podvmm" install >outcome 2>&1 || status=$?
  [ "$status" = 2 ] && grep -q "$2" outcome || {{ cat outcome >&2; fail "$1: status $status"; }}
  state | diff before.state - >&2 || fail "$1: changed"
}}
{more}
"#
    );
    on_a_machine(&script).status(0)
}

#[test]
fn a_configuration_of_version_2_keeps_all_it_has() {
    let _bench = Bench::new();
    with_configuration(
        r#"
fresh <<'.'
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "localhost/pause:1" # ours
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
.
try plain
cat >>$config <<'.'
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.other]
      runtime_type = "io.containerd.other.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = true
.
try 'with runtimes'
fresh <<'.'
version = 2
imports = ["/etc/containerd/conf.d/*.toml"]
[debug]
  level = "info"
.
cp $config conf; printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "a/b:1"\n' >/etc/containerd/conf.d/cri.toml
try 'with imports'
"#,
    );
}

#[test]
fn no_configuration_and_those_of_other_versions() {
    let _bench = Bench::new();
    with_configuration(
        r#"
fresh </dev/null
rm -r /etc/containerd
try none
fresh <<'.'
[plugins.cri]
  sandbox_image = "localhost/pause:1"
.
if [ "$major" -lt 2 ]; then try 'version 1'; else refused 'version 1' 'does not appear'; fi
fresh <<'.'
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
.
if [ "$major" -lt 2 ]; then refused 'version 3' containerd; else try 'version 3'; fi
"#,
    );
}

#[test]
fn a_configuration_that_containerd_refuses_is_not_touched() {
    let _bench = Bench::new();
    with_configuration(
        r#"
fresh <<<'version = '
refused 'no TOML' 'no valid TOML'
fresh <<<'version = 99'
refused 'no version' config
fresh <<<'version = 2'
echo mine >/usr/local/bin/podvmm-vmm
refused 'a file in the way' 'move it away'
rm /usr/local/bin/podvmm-vmm
"#,
    );
}

/// Where a machine cannot run pods nothing is installed, unless somebody insists.
#[test]
fn a_machine_that_cannot_run_pods_gets_nothing() {
    let _bench = Bench::without_kvm();
    let outcome = with_configuration(
        r#"
mount -t tmpfs machine /dev
mknod -m 666 /dev/null c 1 3
state >before.state; status=0
"$podvmm" install || status=$?
[ "$status" = 1 ] || fail "install ended with $status"
state | diff before.state - >&2 || fail "changed"
echo '== forced'
"$podvmm" install --force
"$podvmm" uninstall >/dev/null
"#,
    );
    let text = outcome.text();
    let (refused, forced) = text.split_once("== forced").unwrap();
    for word in ["Refused:", "/dev/kvm", "--force"] {
        assert!(refused.contains(word), "no {word:?} in {refused}");
    }
    assert!(forced.contains("installed by --force"), "{forced}");
}

/// The DaemonSet's script, with this machine's root as the node's, and a service manager that restarts the
/// real containerd.
#[test]
fn the_daemon_sets_script_installs_labels_and_takes_out() {
    let _bench = Bench::new();
    let outcome = on_a_machine(
        r#"
mkdir -p host /run/systemd/system
mount --rbind / host
tar -xzf podvmm.tar.gz
export HOST=$PWD/host PODVMM=$PWD/podvmm/bin/podvmm
cat >/usr/local/bin/systemctl <<.
#!/bin/sh
echo "systemctl \$*" >>$PWD/systemctl.log
.
chmod +x /usr/local/bin/systemctl
script=$REPOSITORY/deploy/install-node
features=/etc/kubernetes/node-feature-discovery/features.d/podvmm
"$script" install once >/dev/null
cat "$features"
"$script" install once >/dev/null
[ "$(cat systemctl.log)" = 'systemctl restart containerd' ] || fail "$(cat systemctl.log)"
start_containerd
ctr run --rm --read-only --runtime io.containerd.podvmm.v2 --rootfs / one uname -r
ctr plugins ls | grep -E 'grpc.v1 +cri .* ok'
for _ in $(seq 300); do pgrep -x containerd-shim >/dev/null || break; sleep 0.1; done
echo 'in the way' >/usr/local/bin/podvmm-vmm
status=0; "$script" install once >/dev/null 2>&1 || status=$?
[ "$status" = 2 ] || fail "install ended with $status"
grep -qx podvmm.dev/ready=false "$features" || fail "$(cat "$features")"
grep -qx podvmm.dev/failed-check=install "$features" || fail "$(cat "$features")"
"$script" uninstall once >/dev/null
[ ! -e "$features" ] && [ ! -e /usr/local/bin/containerd-shim-podvmm-v2 ] || fail "left behind"
stop_containerd
"#,
    )
    .status(0);
    let text = outcome.text();
    for line in [
        "podvmm.dev/ready=true",
        "podvmm.dev/failed-check=none",
        "-podvmm",
    ] {
        assert!(
            text.lines().any(|found| found.ends_with(line)),
            "no {line:?} in {text}"
        );
    }
}
