//! `posthaste contracts diff`: what a reader of one version cannot read of another.

use posthaste_core::contract::{Contract, differences};
use serde_json::json;

use super::{DiffArgs, check::unreadable};
use crate::{failure::Result, output::Output};

pub(super) fn run(args: &DiffArgs, one: &Contract, other: &Contract, out: &mut Output) -> Result {
    let (a, b) = (args.one, args.other);
    // What the later version cannot read comes first: that is what is mostly asked for.
    let found = [(a, b, differences(one, other)), (b, a, differences(other, one))];
    let compatibility = match (found[0].2.is_empty(), found[1].2.is_empty()) {
        (true, true) => "full",
        (true, false) => "backward",
        (false, true) => "forward",
        (false, false) => "none",
    };
    let (mut lines, mut differences) = (Vec::new(), Vec::new());
    for (written, read, found) in &found {
        for difference in found {
            lines.push(unreadable(*written, *read, difference));
            differences.push(json!({
                "written": written,
                "read": read,
                "path": difference.path,
                "what": difference.what,
            }));
        }
    }
    if lines.is_empty() {
        lines.push(format!("Versions {a} and {b} read each other."));
    }
    let result = json!({
        "topic": args.topic,
        "versions": [a, b],
        "compatibility": compatibility,
        "differences": differences,
    });
    Ok(out.result(&result, &lines.join("\n"))?)
}
