//! `posthaste contracts types`: contracts as types of another language, one file each.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use posthaste_core::contract::{
    Contract,
    types::{Language, source},
};
use serde_json::json;

use super::tree::Tree;
use crate::{
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
};

/// Which contracts, and as what.
#[derive(Args, Debug)]
pub(crate) struct TypesArgs {
    /// Folder of the contracts
    #[arg(default_value = "contracts", value_name = "ROOT")]
    root: PathBuf,
    /// The language
    #[arg(long, value_enum)]
    language: In,
    /// This topic only
    #[arg(long)]
    topic: Option<String>,
    /// This version only
    #[arg(id = "number", long = "version", value_name = "N", requires = "topic")]
    version: Option<u32>,
    /// Folder for one file per contract, made if it is not there; without it, one contract is printed
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum In {
    /// Interfaces and type aliases
    #[value(name = "typescript")]
    TypeScript,
    /// `TypedDict`s, for 3.9 and later
    Python,
    /// Structs of the package `contracts`
    Go,
}

/// One contract's file.
struct Written {
    topic: String,
    version: u32,
    name: String,
    text: String,
}

pub(super) fn run(args: &TypesArgs, out: &mut Output) -> Result {
    let language = match args.language {
        In::TypeScript => Language::TypeScript,
        In::Python => Language::Python,
        In::Go => Language::Go,
    };
    let files = files(args, language)?;
    let Some(folder) = &args.output else {
        let [file] = files.as_slice() else {
            return Err(Failure::usage(format!(
                "there are {} contracts; name a folder for them with --output, or one with --topic \
                 and --version",
                files.len()
            )));
        };
        let Written { topic, version, text, .. } = file;
        let result = json!({ "topic": topic, "version": version, "types": text });
        return Ok(out.raw(&result, text.trim_end())?);
    };
    refuse_clashes(&files, language)?;
    for Written { topic, version, name, text } in &files {
        let file = folder.join(name);
        write(&file, text)?;
        let shown = file.display().to_string();
        out.result(&json!({ "topic": topic, "version": version, "file": shown }), &shown)?;
    }
    Ok(())
}

fn files(args: &TypesArgs, language: Language) -> Result<Vec<Written>> {
    let tree = Tree::read(&args.root)?;
    tree.refuse_faults()?;
    let is_meant = |topic: &str, version: u32| {
        args.topic.as_deref().is_none_or(|wanted| wanted == topic)
            && args.version.is_none_or(|wanted| wanted == version)
    };
    let mut files = Vec::new();
    for (topic, version) in tree.contracts.keys().filter(|(it, n)| is_meant(it, *n)) {
        let contract: Contract = tree.contract(topic, *version)?;
        let name = file_name(topic, *version, language);
        let text = source(&contract, language);
        files.push(Written { topic: topic.clone(), version: *version, name, text });
    }
    if files.is_empty() {
        return Err(tree.missing(args.topic.as_deref().unwrap_or("TOPIC"), args.version));
    }
    Ok(files)
}

/// What Python can import and Go does not pass over.
fn file_name(topic: &str, version: u32, language: Language) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = topic.chars().map(plain).collect();
    let first = if name.starts_with(|c: char| c.is_ascii_digit()) { "topic_" } else { "" };
    format!("{first}{name}_v{version}.{}", language.extension())
}

/// Refuses files of one name, on systems without case too, and types of one name in one package.
fn refuse_clashes(files: &[Written], language: Language) -> Result {
    let mut taken: HashMap<String, &Written> = HashMap::new();
    for file in files {
        let go = matches!(language, Language::Go);
        let types = file.text.lines().filter_map(|line| line.strip_prefix("type ").filter(|_| go));
        let types =
            types.map(|rest| format!("type {}", rest.split(' ').next().unwrap_or_default()));
        for name in std::iter::once(file.name.to_lowercase()).chain(types) {
            if let Some(other) = taken.insert(name.clone(), file)
                && !std::ptr::eq(other, file)
            {
                return Err(Failure::usage(format!(
                    "{:?} version {} and {:?} version {} would both be written as {name}; write them \
                     to folders of their own, with --topic",
                    other.topic, other.version, file.topic, file.version
                )));
            }
        }
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).and_then(|()| fs::write(file, text)).map_err(|error| {
        let about = format!("cannot write {}; check --output", file.display());
        Failure::caused(Exit::Failed, about, error)
    })
}
