//! A tree of contracts: `ROOT/TOPIC/v<version>.json`, with samples of its payloads in
//! `v<version>.samples` beside it. A topic with slashes is a folder in a folder.
//!
//! Whatever else stands there is a fault and named: a misspelt file would be a contract that nobody
//! checks. Only names that begin with a dot are other programs'. Nothing outside of the root is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirEntry, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use posthaste_core::{
    Limits,
    contract::{Contract, SCHEMA_BYTES_MAX},
};
use posthaste_store::{CONTRACT_BYTES_MAX, CONTRACTS_BYTES_MAX, CONTRACTS_MAX};
use serde_json::Value;

use crate::{
    exit::Exit,
    failure::{Failure, Result},
};

/// Longest file, in bytes: what compiles can be pushed.
const FILE_BYTES_MAX: usize = SCHEMA_BYTES_MAX;
const _: () = assert!(FILE_BYTES_MAX <= CONTRACT_BYTES_MAX, "the store takes less than a file has");

/// Most files and folders that are looked at.
const ENTRIES_MAX: usize = 100_000;

/// What stands under a root.
pub(super) struct Tree {
    pub(super) root: PathBuf,
    /// By topic and version.
    pub(super) contracts: BTreeMap<(String, u32), Entry>,
    /// What belongs to no contract.
    pub(super) faults: Vec<Fault>,
}

/// A contract's file with its samples.
pub(super) struct Entry {
    pub(super) file: PathBuf,
    pub(super) text: String,
    pub(super) schema: Value,
    pub(super) samples: Vec<Sample>,
}

/// A payload that keeps its contract, or one that does not.
pub(super) struct Sample {
    pub(super) file: PathBuf,
    pub(super) is_valid: bool,
}

/// A file, and what is wrong with it.
pub(super) struct Fault {
    pub(super) file: PathBuf,
    pub(super) what: String,
}

impl Tree {
    /// Reads all contracts; samples are only listed.
    ///
    /// # Errors
    /// Where the root is no folder, or holds more than can be pushed.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let shown = root.display();
        let real = root.canonicalize().map_err(|error| {
            let about = format!("cannot read the contracts in {shown}; check the path");
            Failure::caused(Exit::Usage, about, error)
        })?;
        if !real.is_dir() {
            let about = format!("{shown} is no folder; name the one that holds the topics");
            return Err(Failure::usage(about));
        }
        let mut walk = Walk::new(real);
        walk.folder(root, "")?;
        Ok(walk.into_tree(root))
    }

    /// One contract, compiled.
    pub(super) fn contract(&self, topic: &str, version: u32) -> Result<Contract> {
        let Some(entry) = self.contracts.get(&(topic.to_owned(), version)) else {
            return Err(self.missing(topic, Some(version)));
        };
        Contract::new(topic, version, entry.schema.clone())
            .map_err(|error| Failure::usage(format!("{}: {error}", entry.file.display())))
    }

    /// There is no such contract.
    pub(super) fn missing(&self, topic: &str, version: Option<u32>) -> Failure {
        let number = version.map_or(String::new(), |version| format!(" version {version}"));
        let file = self.root.join(topic).join(format!("v{}.json", version.unwrap_or(1)));
        let unread = if self.faults.is_empty() {
            ""
        } else {
            "; what `posthaste contracts check` finds there may be why"
        };
        Failure::usage(format!(
            "there is no contract {topic:?}{number}: it would be {}{unread}",
            file.display()
        ))
    }

    /// Refuses a tree of which something could not be read.
    pub(super) fn refuse_faults(&self) -> Result {
        let Some(Fault { file, what }) = self.faults.first() else { return Ok(()) };
        let more = match self.faults.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more (see `posthaste contracts check`)"),
        };
        Err(Failure::usage(format!("{} {what}{more}", file.display())))
    }
}

/// A walk under way.
struct Walk {
    /// The root without links.
    real: PathBuf,
    entries: usize,
    bytes: usize,
    contracts: BTreeMap<(String, u32), Entry>,
    /// Contracts that are there and cannot be read.
    unread: BTreeSet<(String, u32)>,
    samples: BTreeMap<(String, u32), (PathBuf, Vec<Sample>)>,
    faults: Vec<Fault>,
}

/// What stands under a name.
enum Kind {
    Folder,
    File,
    Strange(&'static str),
}

impl Walk {
    fn new(real: PathBuf) -> Self {
        let (contracts, unread, samples) = Default::default();
        Self { real, entries: 0, bytes: 0, contracts, unread, samples, faults: Vec::new() }
    }

    fn into_tree(mut self, root: &Path) -> Tree {
        for (of, (folder, samples)) in std::mem::take(&mut self.samples) {
            if let Some(contract) = self.contracts.get_mut(&of) {
                contract.samples = samples;
            } else if !self.unread.contains(&of) {
                let missing = format!("v{}.json", of.1);
                self.fault(&folder, format!("holds samples of no contract: add {missing}"));
            }
        }
        self.faults.sort_by(|one, other| one.file.cmp(&other.file));
        Tree { root: root.to_owned(), contracts: self.contracts, faults: self.faults }
    }

    fn fault(&mut self, file: &Path, what: impl Into<String>) {
        self.faults.push(Fault { file: file.to_owned(), what: what.into() });
    }

    fn folder(&mut self, folder: &Path, topic: &str) -> Result {
        for (name, file) in self.entries(folder)? {
            match self.kind(&file) {
                Err(error) => self.fault(&file, format!("cannot be read: {error}")),
                Ok(Kind::Strange(what)) => self.fault(&file, what),
                Ok(Kind::File) => self.file(&file, &name, topic)?,
                Ok(Kind::Folder) => {
                    if let Some(of) = name.strip_suffix(".samples") {
                        self.samples(&file, of, topic)?;
                    } else {
                        let slash = if topic.is_empty() { "" } else { "/" };
                        self.topic(&file, &format!("{topic}{slash}{name}"))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn topic(&mut self, folder: &Path, topic: &str) -> Result {
        if topic.len() > Limits::DEFAULT.topic_bytes {
            let most = Limits::DEFAULT.topic_bytes;
            self.fault(folder, format!("names a topic of more than {most} bytes: shorten it"));
            return Ok(());
        }
        self.folder(folder, topic)
    }

    fn file(&mut self, file: &Path, name: &str, topic: &str) -> Result {
        let Some(version) = name.strip_suffix(".json").and_then(version) else {
            self.fault(file, "is no contract: name it v<version>.json, or move it elsewhere");
            return Ok(());
        };
        if topic.is_empty() {
            self.fault(file, "belongs to no topic: move it to a folder with the topic's name");
            return Ok(());
        }
        match read_schema(file) {
            Err(what) => {
                self.unread.insert((topic.to_owned(), version));
                self.fault(file, what);
            }
            Ok((text, schema)) => {
                self.bytes += text.len();
                let entry = Entry { file: file.to_owned(), text, schema, samples: Vec::new() };
                self.contracts.insert((topic.to_owned(), version), entry);
            }
        }
        if self.contracts.len() > CONTRACTS_MAX || self.bytes > CONTRACTS_BYTES_MAX {
            return Err(Failure::usage(format!(
                "there are more than {CONTRACTS_MAX} contracts, or more than {CONTRACTS_BYTES_MAX} \
                 bytes of them; name a folder with fewer"
            )));
        }
        Ok(())
    }

    fn samples(&mut self, folder: &Path, of: &str, topic: &str) -> Result {
        let Some(version) = version(of).filter(|_| !topic.is_empty()) else {
            self.fault(folder, "holds samples of no contract: name it v<version>.samples");
            return Ok(());
        };
        let mut samples = Vec::new();
        for (name, file) in self.entries(folder)? {
            let prefix = name.strip_suffix(".json").and_then(|name| name.split_once('-'));
            match (self.kind(&file), prefix) {
                (Err(error), _) => self.fault(&file, format!("cannot be read: {error}")),
                (Ok(Kind::Strange(what)), _) => self.fault(&file, what),
                (Ok(Kind::File), Some((prefix @ ("valid" | "invalid"), _))) => {
                    samples.push(Sample { file, is_valid: prefix == "valid" });
                }
                (Ok(_), _) => {
                    let what = "is no sample: name it valid-<what>.json or invalid-<what>.json";
                    self.fault(&file, what);
                }
            }
        }
        self.samples.insert((topic.to_owned(), version), (folder.to_owned(), samples));
        Ok(())
    }

    /// What a folder holds, by name.
    fn entries(&mut self, folder: &Path) -> Result<Vec<(String, PathBuf)>> {
        let mut entries = Vec::new();
        let listed = fs::read_dir(folder)
            .and_then(|listed| listed.take(ENTRIES_MAX + 1).collect::<io::Result<Vec<DirEntry>>>());
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.fault(folder, format!("cannot be read: {error}"));
                return Ok(entries);
            }
        };
        self.entries += listed.len();
        if self.entries > ENTRIES_MAX {
            let most = format!("there are more than {ENTRIES_MAX} files in it");
            let folder = self.real.display();
            return Err(Failure::usage(format!("{folder}: {most}; name a folder with fewer")));
        }
        for entry in listed {
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with('.') => {}
                Ok(name) => entries.push((name, entry.path())),
                Err(_) => self.fault(&entry.path(), "has a name that is not UTF-8: rename it"),
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// Follows a link to a file inside the root; another could lead anywhere, or round.
    fn kind(&self, file: &Path) -> io::Result<Kind> {
        let mut metadata = fs::symlink_metadata(file)?;
        if metadata.is_symlink() {
            if !file.canonicalize()?.starts_with(&self.real) {
                let what = "is a link that leads out of the contracts: put the file itself here";
                return Ok(Kind::Strange(what));
            }
            metadata = fs::metadata(file)?;
            if metadata.is_dir() {
                return Ok(Kind::Strange("is a link to a folder: put the folder itself here"));
            }
        }
        Ok(match (metadata.is_dir(), metadata.is_file()) {
            (true, _) => Kind::Folder,
            (_, true) => Kind::File,
            _ => Kind::Strange("is neither a file nor a folder: remove it"),
        })
    }
}

/// A file's bytes, or what is wrong with it.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("is longer than {FILE_BYTES_MAX} bytes: shorten it"));
    }
    Ok(bytes)
}

fn read_schema(file: &Path) -> Result<(String, Value), String> {
    let text = String::from_utf8(read(file)?)
        .map_err(|error| format!("is not UTF-8 from byte {}", error.utf8_error().valid_up_to()))?;
    let schema = serde_json::from_str(&text).map_err(|error| format!("is not JSON: {error}"))?;
    Ok((text, schema))
}

/// The number in `v17`; one spelling for each.
fn version(name: &str) -> Option<u32> {
    let digits = name.strip_prefix('v')?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain)
}
