//! Small libraries in C that are loaded into a program before the C library, to answer some of its
//! calls. They need a C compiler, as building the workspace does, and a program that is linked with
//! the C library dynamically.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    path::PathBuf,
    process::Command,
};

use crate::{
    account::Account,
    cache,
    error::{TestkitError, run},
};

/// The library that `source` makes, built once for each account and text.
pub(crate) fn library(account: Account, name: &str, source: &str) -> Result<PathBuf, TestkitError> {
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let library = format!("{name}.so");
    let built =
        cache::entry(account, &format!("preload-{name}-{:016x}", hasher.finish()), |draft| {
            let text = draft.join(format!("{name}.c"));
            fs::write(&text, source).map_err(TestkitError::io("write a C source"))?;
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(draft.join(&library));
            run(compiler.arg(&text).arg("-ldl")).map(drop)
        })?;
    Ok(built.join(library))
}
