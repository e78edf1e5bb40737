//! Which file system a path is on. Read from a table of the kernel's: a server that does not answer is not asked.

use std::fs;
use std::path::{Path, PathBuf};

/// The type of the file system that holds a path, such as `ext4`, `nfs4`, `tmpfs`.
pub(crate) fn file_system_of(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    parse_mountinfo(&fs::read_to_string("/proc/self/mountinfo").ok()?, &real)
}

/// Looks for the mount that holds a path (`proc_pid_mountinfo(5)`): the deepest one, and of several in one place the
/// last, which hides the others.
fn parse_mountinfo(text: &str, path: &Path) -> Option<String> {
    let mounts = text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(before.split(' ').nth(4)?));
        let kind = after.split(' ').next()?.to_owned();
        path.starts_with(&point).then(|| (point.components().count(), kind))
    });
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// Blanks and the like stand there as `\040`.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push_str(before);
        text.push(code.map_or('\\', char::from));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=12334492k
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684092k
31 27 0:40 / /home rw,relatime shared:5 - autofs systemd-1 rw
32 27 0:41 / /home rw,relatime shared:6 - nfs4 server:/home rw,vers=4.2
33 27 0:42 / /my\\040disk rw - lustre mds:/scratch rw
";

    #[test]
    fn the_deepest_and_last_mount_holds_a_path() {
        for (path, kind) in [
            ("/tmp/x", "ext4"),
            ("/dev/shm", "tmpfs"),
            ("/dev/shmx", "devtmpfs"),
            ("/home/me/.pxcluster", "nfs4"),
            ("/my disk/a", "lustre"),
        ] {
            assert_eq!(parse_mountinfo(MOUNTS, Path::new(path)).as_deref(), Some(kind), "{path}");
        }
        assert_eq!(parse_mountinfo("nonsense\n", Path::new("/")), None);
        assert_eq!(unescape(r"a\040b\134c\x"), r"a b\c\x");
        assert!(file_system_of(Path::new("/proc")).is_some());
    }
}
