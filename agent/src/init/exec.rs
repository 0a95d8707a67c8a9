//! Finding and executing the command.

use std::ffi::{CStr, CString};
use std::io;

use crate::container::{Message, ProcessPlan};
use crate::sys::process;

const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the command; returns only to say why not, in the words of a shell's statuses 127 and 126.
pub(super) fn execute(plan: &ProcessPlan, environment: &[CString]) -> Message {
    let Some(name) = plan.arguments.first() else {
        return Message::ExecFailed("no command".to_owned());
    };
    if let Some(program) = &plan.program {
        let error = process::execute_file(program, &plan.arguments, environment);
        return failure(name, error.raw_os_error().unwrap_or(libc::EIO));
    }
    let mut worst = libc::ENOENT;
    for path in candidates(name, environment) {
        let error = process::execute(&path, &plan.arguments, environment);
        match error.raw_os_error().unwrap_or(libc::EIO) {
            // What a search goes on after; "permission denied" is remembered, as execvp does.
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            other => return failure(name, other),
        }
    }
    failure(name, worst)
}

fn candidates(name: &CStr, environment: &[CString]) -> Vec<CString> {
    if name.to_bytes().contains(&b'/') {
        return vec![name.to_owned()];
    }
    let path = environment
        .iter()
        .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(|byte| *byte == b':')
        // An empty entry would be the working directory; an image's stray colon should not mean that.
        .filter(|directory| !directory.is_empty())
        .filter_map(|directory| CString::new([directory, b"/", name.to_bytes()].concat()).ok())
        .collect()
}

fn failure(name: &CStr, errno: i32) -> Message {
    let text = format!(
        "{}: {}",
        name.to_string_lossy(),
        io::Error::from_raw_os_error(errno)
    );
    match errno {
        libc::ENOENT | libc::ENOTDIR => Message::CommandNotFound(text),
        libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR | libc::ETXTBSY | libc::ELOOP => {
            Message::CommandNotExecutable(text)
        }
        _ => Message::ExecFailed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> CString {
        CString::new(bytes).unwrap()
    }

    #[test]
    fn path_is_searched_for_bare_names_only() {
        let environment = [plain(b"PATH=/a::/b")];
        assert_eq!(
            candidates(c"x", &environment),
            [plain(b"/a/x"), plain(b"/b/x")]
        );
        assert_eq!(candidates(c"./x", &environment), [plain(b"./x")]);
        assert_eq!(candidates(c"x", &[]).len(), 6);
    }

    #[test]
    fn failures_have_a_shells_kinds() {
        assert!(matches!(
            failure(c"x", libc::ENOENT),
            Message::CommandNotFound(_)
        ));
        assert!(matches!(
            failure(c"x", libc::EACCES),
            Message::CommandNotExecutable(_)
        ));
        assert!(matches!(
            failure(c"x", libc::ENOEXEC),
            Message::CommandNotExecutable(_)
        ));
        assert!(matches!(failure(c"x", libc::E2BIG), Message::ExecFailed(_)));
    }
}
