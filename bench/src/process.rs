//! What the kernel knows of a process: processor time and memory, read from `/proc` (proc(5)).

use std::{collections::HashMap, fs, process::Command, sync::LazyLock};

/// Clock ticks of one second, the unit of times in `/proc/<pid>/stat`.
static TICKS_PER_SECOND: LazyLock<f64> = LazyLock::new(|| {
    let answer = Command::new("getconf").arg("CLK_TCK").output().ok();
    let text = answer.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.and_then(|text| text.parse().ok()).unwrap_or(100.0)
});

/// Fields of `/proc/<pid>/stat` after the command's name, counted from the state.
const PARENT: usize = 1;
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const USER_TIME_OF_ENDED_CHILDREN: usize = 13;
const SYSTEM_TIME_OF_ENDED_CHILDREN: usize = 14;

/// Processor seconds that a process has used; 0 for one that is gone.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |fields| seconds(&fields, &[USER_TIME, SYSTEM_TIME]))
}

/// Processor seconds of the children of this process that have ended and were waited for.
pub(crate) fn cpu_seconds_of_ended_children() -> f64 {
    let fields = stat(std::process::id());
    let columns = [USER_TIME_OF_ENDED_CHILDREN, SYSTEM_TIME_OF_ENDED_CHILDREN];
    fields.map_or(0.0, |fields| seconds(&fields, &columns))
}

/// Processor seconds of a server with all its children, also those that have ended: a postmaster
/// and its backends.
pub(crate) fn cpu_seconds_of_tree(pid: u32) -> f64 {
    let all: HashMap<u32, Vec<u64>> = pids().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let columns =
        [USER_TIME, SYSTEM_TIME, USER_TIME_OF_ENDED_CHILDREN, SYSTEM_TIME_OF_ENDED_CHILDREN];
    let is_inside = |member: u32, fields: &[u64]| {
        member == pid || fields.get(PARENT).is_some_and(|parent| *parent == u64::from(pid))
    };
    let inside = all.iter().filter(|(member, fields)| is_inside(**member, fields));
    inside.map(|(_, fields)| seconds(fields, &columns)).sum()
}

/// The most memory a process has ever held at once (`VmHWM`), in MiB; `None` once it is gone.
pub(crate) fn rss_peak_mib(pid: u32) -> Option<f64> {
    mib(pid, "VmHWM:")
}

/// The memory that a process holds now (`VmRSS`), in MiB; `None` once it is gone.
pub(crate) fn rss_mib(pid: u32) -> Option<f64> {
    mib(pid, "VmRSS:")
}

fn mib(pid: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1_024.0)
}

fn seconds(fields: &[u64], columns: &[usize]) -> f64 {
    let ticks: u64 = columns.iter().filter_map(|column| fields.get(*column)).sum();
    ticks as f64 / *TICKS_PER_SECOND
}

fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may itself hold some.
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{cpu_seconds, cpu_seconds_of_tree, rss_mib, rss_peak_mib};

    #[test]
    fn this_process_has_memory_and_is_inside_its_own_tree() {
        let pid = std::process::id();
        let (now, peak) = (rss_mib(pid).unwrap(), rss_peak_mib(pid).unwrap());
        assert!(0.1 < now && now <= peak);
        assert!(cpu_seconds_of_tree(pid) >= cpu_seconds(pid));
    }

    #[test]
    fn a_process_that_is_gone_has_nothing() {
        assert_eq!(rss_peak_mib(u32::MAX), None);
        assert!(cpu_seconds(u32::MAX).abs() < f64::EPSILON);
    }
}
