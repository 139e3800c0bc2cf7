//! The files of the workspace, as git sees them: tracked, or new and not ignored.

use std::fs;
use std::path::PathBuf;

use crate::process::{Failure, command, root};

/// One file, by its path from the root.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// All text files that match one of git's path patterns.
pub(crate) fn matching(patterns: &[&str]) -> Result<Vec<Source>, Failure> {
    let mut list =
        command(&["git", "ls-files", "--cached", "--others", "--exclude-standard", "--"]);
    let output = list.args(patterns).output().map_err(Failure::io("run `git ls-files`"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(Failure(format!("`git ls-files` failed: {reason}")));
    }
    let mut paths: Vec<PathBuf> =
        String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
    paths.sort();
    paths.dedup();
    // A file that git still tracks may be deleted in the work tree.
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).ok()?;
        Some(Source { path, text })
    };
    Ok(paths.into_iter().filter_map(read).collect())
}
