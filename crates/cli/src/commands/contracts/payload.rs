//! `posthaste contracts check --payload`: whether one payload keeps its contract.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use serde_json::json;

use super::{CheckArgs, PayloadArgs, tree::Tree};
use crate::{
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
};

/// Largest payload that is judged: the largest that a log takes, in bytes.
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Judges one payload, of which nothing is shown.
pub(super) fn judge(args: &CheckArgs, out: &mut Output) -> Result {
    let PayloadArgs { file: Some(file), topic: Some(topic), version: Some(version) } =
        &args.payload
    else {
        // Clap asks for all three, or none.
        return Ok(());
    };
    let contract = Tree::read(&args.root)?.contract(topic, *version)?;
    let payload = read(file)?;
    contract.check(&payload).map_err(|violation| {
        let file = file.display();
        let message =
            format!("{file} does not keep contract {topic:?} version {version}: {violation}");
        Failure::new(Exit::Failed, message)
    })?;
    let result = json!({ "topic": topic, "version": version, "valid": true });
    Ok(out.result(&result, &format!("It keeps contract {topic:?} version {version}."))?)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let mut payload = Vec::new();
    let limit = PAYLOAD_BYTES_MAX + 1;
    let answer = if file == Path::new("-") {
        io::stdin().take(limit).read_to_end(&mut payload)
    } else {
        File::open(file).and_then(|file| file.take(limit).read_to_end(&mut payload))
    };
    let about = || format!("--payload {} cannot be read; check the path", file.display());
    match answer.map_err(|error| Failure::caused(Exit::Usage, about(), error))? {
        bytes if bytes as u64 > PAYLOAD_BYTES_MAX => Err(Failure::usage(format!(
            "--payload {} is longer than {PAYLOAD_BYTES_MAX} bytes, the most that a log takes",
            file.display()
        ))),
        _ => Ok(payload),
    }
}
