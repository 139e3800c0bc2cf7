//! Whether a path lies on a network file system, where SQLite's WAL mode loses data: its index is
//! shared memory, which two machines do not share (<https://sqlite.org/wal.html>, "all processes
//! using a database must be on the same host computer"). Known on Linux only; elsewhere nothing
//! is refused.

use std::path::Path;

/// File system types, as the kernel names them, that another machine can write to.
const NETWORK: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "smbfs",
];

/// The network file system that holds `path`, which must be absolute and free of links.
pub(super) fn network_file_system(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let kind = file_system_of(&mounts, path)?;
    NETWORK.contains(&kind).then(|| kind.to_owned())
}

/// The type of the innermost mount above `path`. Of mounts at one point the last one counts: it
/// covers the others. (Manual page `proc_pid_mountinfo(5)`: the mount point is the fifth field, the type stands
/// after the separator `-`.)
fn file_system_of<'m>(mounts: &'m str, path: &Path) -> Option<&'m str> {
    let mut innermost: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4) else { continue };
        let Some(kind) = source.split(' ').next() else { continue };
        let point = unescape(point);
        if path.starts_with(&point) && innermost.is_none_or(|(length, _)| point.len() >= length) {
            innermost = Some((point.len(), kind));
        }
    }
    innermost.map(|(_, kind)| kind)
}

/// The kernel writes space, tab, newline and backslash as octal escapes.
fn unescape(point: &str) -> String {
    let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    point.replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
30 22 0:40 / /srv rw shared:7 - nfs4 server:/export rw
31 30 0:41 / /srv/local\\040disk rw - xfs /dev/vdb rw
32 22 0:42 / /mnt rw - ext4 /dev/vdc rw
33 32 0:43 / /mnt rw - cifs //server/share rw
";

    #[test]
    fn innermost_and_latest_mount_counts() {
        for (path, expected) in [
            ("/var/lib/app.db", "ext4"),
            ("/srv/app.db", "nfs4"),
            ("/srv/local disk/app.db", "xfs"),
            ("/srvices/app.db", "ext4"),
            ("/mnt/app.db", "cifs"),
        ] {
            assert_eq!(file_system_of(MOUNTS, Path::new(path)), Some(expected), "{path}");
        }
    }
}
