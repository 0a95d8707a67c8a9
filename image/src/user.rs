//! Who a user or group is, by the image's own files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use thiserror::Error;

/// As much of a file as is looked at.
const MAX_FILE: u64 = 4 << 20;

/// A user that cannot be found.
#[derive(Debug, Error)]
pub enum UserError {
    /// Not a form of user that there is.
    #[error("user `{0}`: write USER or USER:GROUP, by name or number")]
    Form(String),
    /// No such user.
    #[error("user `{0}` is not in the root file system's /etc/passwd; give the number")]
    NoUser(String),
    /// No such group.
    #[error("group `{0}` is not in the root file system's /etc/group; give the number")]
    NoGroup(String),
    /// A number that the kernel has for nobody.
    #[error("`{0}` is more than the highest number of a user or group, 4294967294")]
    Number(String),
    /// A file cannot be read.
    #[error("the root file system's {file} cannot be read")]
    Unreadable {
        /// Which one.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory, where one is known.
    pub home: Option<String>,
}

/// The texts of a root file system's `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Users.
    pub passwd: String,
    /// Groups.
    pub group: String,
}

impl Accounts {
    /// Reads them. What is missing is empty.
    ///
    /// # Errors
    /// [`UserError::Unreadable`] when one is there that cannot be read, or is no file.
    pub fn of(root: BorrowedFd<'_>) -> Result<Self, UserError> {
        Ok(Self {
            passwd: read(root, "/etc/passwd")?,
            group: read(root, "/etc/group")?,
        })
    }
}

/// Finds `user` by the files of a root file system; see [`identify`].
///
/// # Errors
/// [`UserError`] when a name is not found, or a file cannot be read.
pub fn identify_in(root: BorrowedFd<'_>, user: &str) -> Result<Identity, UserError> {
    let Accounts { passwd, group } = Accounts::of(root)?;
    identify(user, &passwd, &group)
}

/// A file of the root, which may be a link, but only to another of its files. What is missing is
/// empty; what is there and cannot be read could have said that a user is another one.
fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::Unreadable { file, source };
    // What blocks when it is opened is no such file.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened = match rustix::fs::openat2(root, file, flags, Mode::empty(), resolve) {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(failed(errno.into())),
    };
    let stat = rustix::fs::fstat(&opened).map_err(|errno| failed(errno.into()))?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let mut bytes = Vec::new();
    let file = File::from(opened);
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Finds `user`, which is `USER[:GROUP]` by name or number and root if it is empty, in the texts of
/// `/etc/passwd` and `/etc/group`. The rules are docker's:
///
/// - A user that is found has the group of its entry and all groups that name it.
/// - A number that is not found is taken as it is, with group 0 and no other.
/// - A group that is named replaces all of these.
///
/// # Errors
/// [`UserError`] when a name is not found.
pub fn identify(user: &str, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (user, named_group) = match user.split_once(':') {
        Some((_, group)) if group.is_empty() || group.contains(':') => {
            return Err(UserError::Form(user.into()));
        }
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let wanted = if user.is_empty() { "0" } else { user };
    let by_name = entries(passwd).find(|entry| entry.name == wanted);
    let by_number = || id(wanted).and_then(|uid| entries(passwd).find(|entry| entry.uid == uid));
    let entry = by_name.or_else(by_number);
    let mut identity = match (&entry, id(wanted)) {
        (Some(entry), _) => Identity {
            uid: entry.uid,
            gid: entry.gid,
            groups: groups_of(entry.name, group),
            home: Some(entry.home.to_owned()).filter(|home| home.starts_with('/')),
        },
        (None, Some(uid)) => Identity {
            uid,
            ..Identity::default()
        },
        (None, None) if is_number(wanted) => return Err(UserError::Number(user.into())),
        (None, None) => return Err(UserError::NoUser(user.into())),
    };
    if let Some(name) = named_group {
        let by_name = groups(group).find(|(known, ..)| *known == name);
        identity.gid = by_name
            .map(|(_, gid, _)| gid)
            .or_else(|| id(name))
            .ok_or_else(|| match name.to_owned() {
                number if is_number(&number) => UserError::Number(number),
                name => UserError::NoGroup(name),
            })?;
        identity.groups.clear();
    }
    Ok(identity)
}

/// A number that can be a user or group: the highest one means "none" to the kernel.
fn id(text: &str) -> Option<u32> {
    let number = is_number(text).then(|| text.parse().ok()).flatten();
    number.filter(|number| *number != u32::MAX)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Entry {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let mut found: Vec<_> = groups(group)
        .filter(|(.., members)| members.split(',').any(|member| member.trim() == user))
        .map(|(_, gid, _)| gid)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:1:1::/:\n\
        app:x:1000:1001:App:/srv/app:/bin/sh\n2000:x:7:8::relative:/bin/sh\nhuge:x:4294967295:1::/:\n";
    const GROUP: &str =
        "root:x:0:\napp:x:1001:\nlog:x:4:root,app\nextra:x:44:app,app\nbroken:x:x:app\n";

    /// A text, and the user, group, further groups and home directory that it means.
    type Case<'a> = (&'a str, u32, u32, &'a [u32], Option<&'a str>);

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let table: [Case<'_>; 11] = [
            ("", 0, 0, &[4], Some("/root")),
            ("0", 0, 0, &[4], Some("/root")),
            ("root", 0, 0, &[4], Some("/root")),
            ("app", 1000, 1001, &[4, 44], Some("/srv/app")),
            ("1000", 1000, 1001, &[4, 44], Some("/srv/app")),
            ("2000", 7, 8, &[], None),
            ("3000", 3000, 0, &[], None),
            ("3000:77", 3000, 77, &[], None),
            ("app:0", 1000, 0, &[], Some("/srv/app")),
            ("app:log", 1000, 4, &[], Some("/srv/app")),
            (":log", 0, 4, &[], Some("/root")),
        ];
        for (text, uid, gid, groups, home) in table {
            let found = identify(text, PASSWD, GROUP).unwrap_or_else(|e| panic!("{text}: {e}"));
            let expected = Identity {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.map(str::to_owned),
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn files_that_are_none_are_told() {
        let root = std::env::temp_dir().join(format!("podvmm-accounts-{}", std::process::id()));
        std::fs::create_dir_all(root.join("etc/passwd")).unwrap();
        let dir = File::open(&root).unwrap();
        let error = Accounts::of(dir.as_fd()).unwrap_err().to_string();
        assert!(error.contains("/etc/passwd"), "{error}");
        std::fs::remove_dir(root.join("etc/passwd")).unwrap();
        // Links lead to files of the root.
        std::os::unix::fs::symlink("/users", root.join("etc/passwd")).unwrap();
        std::fs::write(root.join("users"), PASSWD).unwrap();
        let found = Accounts::of(dir.as_fd()).unwrap();
        assert_eq!((found.passwd.as_str(), found.group.as_str()), (PASSWD, ""));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn whoever_is_not_there_is_named() {
        for (text, word) in [
            ("nobody", "`nobody`"),
            ("broken", "`broken`"),
            ("huge", "`huge`"),
            ("4294967295", "`4294967295` is more than"),
            ("app:4294967296", "`4294967296` is more than"),
            ("-1", "`-1`"),
            ("app:none", "`none`"),
            ("app:broken", "`broken`"),
            ("app:", "USER:GROUP"),
            ("a:b:c", "USER:GROUP"),
        ] {
            let error = identify(text, PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        // An image without the files still runs by number.
        assert_eq!(identify("", "", "").unwrap(), Identity::default());
    }
}
