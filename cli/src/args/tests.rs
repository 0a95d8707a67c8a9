use super::*;

fn parse(args: &[&str]) -> Result<Run, clap::Error> {
    let all = ["podvmm", "run"].iter().chain(args);
    Args::read(all).map(|args| match args.command {
        Command::Run(run) => *run,
        other => panic!("it is `run`, not {other:?}"),
    })
}

#[test]
fn the_command_keeps_its_own_options() {
    let run = parse(&["--rootfs", "/", "sh", "-c", "--cpus", "-i"]).unwrap();
    assert_eq!(run.command, ["sh", "-c", "--cpus", "-i"]);
    let run = parse(&["-it", "--rootfs", "/", "--", "-x"]).unwrap();
    assert_eq!(run.command, ["-x"]);
    assert!(run.interactive && run.tty);
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    for (args, word) in [
        (["--cpus", "0"], "--cpus"),
        (["--cpus", "10000"], "--cpus"),
        (["--cpus", "1.5"], "--cpus"),
        (["--cpus", "-1"], "`-1` is no whole number"),
        (["--mem", "-1"], "`-1` is no size"),
        (
            ["--stop-timeout", "-1"],
            "`-1` is no whole number of seconds",
        ),
        (["--log-level", "loud"], "`loud` is no level"),
        (["--mem", "1"], "--mem"),
        (["--volume", "x"], "--volume"),
        (["--volume", "a:b"], "absolute"),
        (["--volume", "a:/b:rx"], "rx"),
        (["--volume", "a:/"], "--rootfs"),
        (["--volume", "a:/b/../c"], "`..`"),
        (["--device", ""], "HOST is empty"),
        (["--device", "a:/dev/null"], "in each container"),
        (["--device", ":/dev/a"], "HOST is empty"),
        (["--device", "disk.img"], "HOST:/dev/xvda"),
        (["--device", "a:/dev/a:w"], "can always be read"),
        (["--device", "a:/dev/a:x"], "rwm"),
        (["--device", "a:/dev/a:"], "rwm"),
        (["--device", "a:b:c:d"], "HOST:CONTAINER"),
        (["--net", "host"], "--net"),
        (["--net", "netns:"], "netns:PATH"),
        (["--net", "cni="], "cni=NAME"),
        (["--net", "cni:a"], "cni=NAME"),
        (["--net", "netns"], "netns:PATH"),
        (["--env", "=x"], "--env"),
        (["--net-rate", "0"], "no limit"),
        (["--net-rate", "fast"], "fast"),
        (["--disk-rate", "1M,x"], "`x`"),
        (["--disk-rate", ",0"], "no limit"),
        (["--user", "a:b:c"], "--user"),
        (["--image", "x"], "--image"),
        (["--entrypoint", "x"], "--entrypoint"),
        (["--hostname", "a_b"], "--hostname"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "5d"], "--timeout"),
        (["--workdir", "here"], "--workdir"),
        (["--restart", "sometimes"], "--restart"),
        (["--restart", "always"], "--detach"),
        (["--log-max-files", "0"], "--log-max-files"),
        (["--stop-timeout", "soon"], "--stop-timeout"),
        (["--no-such-option", "x"], "--no-such-option"),
    ] {
        let error = parse(&[args[0], args[1], "--rootfs", "/", "true"]).unwrap_err();
        assert!(error.to_string().contains(word), "{args:?}: {error}");
    }
}

#[test]
fn a_device_is_read_as_docker_reads_it() {
    for (text, source, path, read_only) in [
        ("/dev/sdb", "/dev/sdb", "/dev/sdb", false),
        ("/dev/sdb:r", "/dev/sdb", "/dev/sdb", true),
        ("/dev/sdb:rwm", "/dev/sdb", "/dev/sdb", false),
        ("disk.img:/dev/xvda", "disk.img", "/dev/xvda", false),
        ("disk.img:/dev/xvda:rm", "disk.img", "/dev/xvda", true),
        ("/dev/sdb:/dev/a:rw", "/dev/sdb", "/dev/a", false),
    ] {
        let run = parse(&["--rootfs", "/", "--device", text, "true"]).unwrap();
        let device = Device {
            source: source.into(),
            path: path.into(),
            read_only,
        };
        assert_eq!(run.devices, [device], "{text}");
    }
}

#[test]
fn a_network_is_none_a_namespace_or_what_plugins_make() {
    let net = |args: &[&str]| {
        let all = [args, &["--rootfs", "/", "true"]].concat();
        parse(&all).unwrap().net
    };
    assert_eq!(net(&[]), Net::None);
    assert_eq!(net(&["--net", "none"]), Net::None);
    assert_eq!(net(&["--net", "cni"]), Net::Cni(None));
    assert_eq!(net(&["--net", "cni=a"]), Net::Cni(Some("a".into())));
    let path = Net::Netns("/run/netns/a:b".into());
    assert_eq!(net(&["--net", "netns:/run/netns/a:b"]), path);
}

#[test]
fn a_check_is_for_something_known() {
    let parse = |purpose: &str| Args::read(["podvmm", "check", "--for", purpose]);
    for purpose in Purpose::ALL {
        match parse(&purpose.to_string()).unwrap().command {
            Command::Check(check) => assert_eq!(check.purpose, purpose),
            other => panic!("it is `check`, not {other:?}"),
        }
    }
    let error = parse("fun").unwrap_err().to_string();
    assert!(error.contains("--for") && error.contains("node"), "{error}");
}

#[test]
fn durations_are_read_as_people_write_them() {
    for (text, millis) in [
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("1m1s500ms", 61_500),
        ("30s", 30_000),
        ("7", 7_000),
        ("1h", 3_600_000),
    ] {
        assert_eq!(duration(text).unwrap(), Duration::from_millis(millis));
    }
}

#[test]
fn an_image_knows_what_to_run() {
    let run = parse(&["--image", "debian:12", "--pull", "never"]).unwrap();
    assert!(run.command.is_empty() && run.rootfs.is_none());
    for args in [
        &["--image", "x", "--rootfs", "/", "true"][..],
        &["--image", "x", "--rootfs-rw"],
    ] {
        assert!(parse(args).is_err(), "{args:?}");
    }
}

#[test]
fn rates_are_bytes_and_requests() {
    let rates = |args: &[&str]| {
        let run = parse(&[args, &["--rootfs", "/", "true"]].concat()).unwrap();
        [run.net_rate, run.disk_rate].map(|limit| {
            [limit.bytes, limit.requests].map(|rate| rate.map_or(0, |rate| rate.per_second.get()))
        })
    };
    assert_eq!(rates(&[]), [[0, 0], [0, 0]]);
    assert_eq!(
        rates(&["--net-rate", "10M", "--disk-rate", "1k,500"]),
        [[10 << 20, 0], [1024, 500]]
    );
    assert_eq!(rates(&["--disk-rate", ",7"]), [[0, 0], [0, 7]]);
}

#[test]
fn every_option_of_run_is_under_its_own_heading() {
    let mut command = Args::command();
    let run = command.find_subcommand_mut("run").unwrap();
    let heading = |name: &str| {
        let mut options = run.get_arguments();
        let option = options.find(|option| option.get_long() == Some(name));
        option.unwrap().get_help_heading()
    };
    for (option, expected) in [
        ("name", heading::GENERAL),
        ("tty", heading::GENERAL),
        ("root", heading::GENERAL),
        ("file", Some(heading::MANIFEST)),
        ("sizing", Some(heading::MANIFEST)),
        ("data", Some(heading::MANIFEST)),
        ("cpus", Some(heading::MACHINE)),
        ("volume", Some(heading::FILES)),
        ("image", Some(heading::IMAGE)),
        ("store", Some(heading::IMAGE)),
        ("env", Some(heading::COMMAND)),
        ("publish", Some(heading::NETWORK)),
        ("jail", Some(heading::ISOLATION)),
    ] {
        assert_eq!(heading(option), expected, "--{option}");
    }
}

#[test]
fn a_pod_in_the_foreground_may_be_told_to_go_as_it_does() {
    let run = parse(&["--rm", "-it", "--rootfs", "/", "sh"]).unwrap();
    assert!(run.rm && !run.detach);
    let run = parse(&["--rm", "--log-max-size", "1M", "-f", "pod.yaml"]).unwrap();
    assert!(run.rm && run.log_max_size == 1 << 20);
    let error = parse(&["--log-max-size", "1M", "--rootfs", "/", "sh"]).unwrap_err();
    assert!(error.to_string().contains("--detach"), "{error}");
}

#[test]
fn what_is_missing_is_told_with_what_to_write() {
    for (args, words) in [
        (&[][..], "--image debian:12"),
        (
            &["debian:12", "bash", "-l"],
            "podvmm run --image debian:12 -- bash -l",
        ),
        (&["-it", "debian"], "podvmm run --image debian`"),
        (&["--rootfs", "/"], "-- sh"),
        (&["--rootfs", "/", ""], "COMMAND is empty"),
        (
            &["--rootfs", "/", "--base-cpus", "2", "sh"],
            "--base-cpus is for a manifest",
        ),
        (
            &["--rootfs", "/", "--secret", "a=b", "sh"],
            "--secret is for a manifest",
        ),
        (
            &["--rootfs", "/", "-v", "a:/x:ro", "-v", "b:/x/", "sh"],
            "--volume /x/: --volume",
        ),
        (
            &["--rootfs", "/", "-v", "a:/x", "--device", "b:/x", "sh"],
            "--device /x: --volume",
        ),
    ] {
        let error = parse(args).unwrap().complete().unwrap_err();
        assert!(error.contains(words), "{args:?}: {error}");
    }
    for args in [
        &["--rootfs", "/", "sh"][..],
        &["--image", "debian"],
        &["-f", "pod.yaml"],
    ] {
        parse(args).unwrap().complete().unwrap();
    }
}

/// A terminal may be narrower than the text: then its lines are broken anew, and those that were broken
/// by hand twice.
#[test]
fn paragraphs_of_help_are_single_lines() {
    fn look_at(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
        for lines in help.lines().collect::<Vec<_>>().windows(2) {
            let broken = is_prose(lines[0]) && is_prose(lines[1]);
            assert!(!broken, "{}: {lines:?}", command.get_name());
        }
        command.get_subcommands().for_each(look_at);
    }
    look_at(&Args::command_line());
}
