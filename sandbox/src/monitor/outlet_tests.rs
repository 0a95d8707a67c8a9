use std::io::Write;

use super::*;

#[test]
fn viewers_are_given_what_comes_and_do_not_hold_up_the_rest() {
    let dir = std::env::temp_dir().join(format!("podvmm-outlet-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let outlet = LogOutlet::new(&dir, LogLimits::default());
    let channel = outlet.channel("main").unwrap();
    let (mut command, from) = UnixStream::pair().unwrap();
    let copying = {
        let channel = Arc::clone(&channel);
        std::thread::spawn(move || channel.copy(from, Stream::Stdout))
    };
    let mut early = channel.view(Stream::Stdout).unwrap();
    let gone = channel.view(Stream::Stdout).unwrap();
    let mut other = channel.view(Stream::Stderr).unwrap();
    command.write_all(b"one").unwrap();
    let mut read = [0; 3];
    early.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"one");
    drop(gone);
    // One who has left is forgotten when the next one comes.
    let mut late = channel.view(Stream::Stdout).unwrap();
    assert_eq!(lock(&channel.viewers).len(), 3);
    command.write_all(b"two").unwrap();
    drop(command);
    copying.join().unwrap();
    let mut rest = String::new();
    early.read_to_string(&mut rest).unwrap();
    late.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "twotwo");
    assert_eq!(lock(&channel.viewers).len(), 1);
    lock(&channel.viewers).clear();
    other.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "twotwo");
    let log = std::fs::read_to_string(logs::path(&dir, "main")).unwrap();
    assert!(log.contains("one") && log.contains("two"), "{log}");
    std::fs::remove_dir_all(dir).unwrap();
}
