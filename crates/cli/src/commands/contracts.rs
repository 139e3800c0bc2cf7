//! `posthaste contracts check | push | list | show | diff | types | remove`: what payloads must look
//! like, in files and in the database.

mod check;
mod diff;
mod known;
mod payload;
mod pushed;
mod tree;
mod types;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use posthaste_core::contract::Compatibility;

use self::{check::Report, known::Known, tree::Tree, types::TypesArgs};
use super::selection::ChangeArgs;
use crate::{config::Config, failure::Result, output::Output, store};

/// What to do with contracts.
#[derive(Debug, Subcommand)]
pub(crate) enum ContractsCommand {
    /// Find what is wrong: schemas, samples, and versions that cannot read the one before
    ///
    /// Fails on any of them, for continuous integration. Files are ROOT/TOPIC/v1.json, with samples
    /// in v1.samples/valid-*.json and v1.samples/invalid-*.json. With --payload it judges one
    /// payload instead.
    #[command(disable_version_flag = true)]
    Check(CheckArgs),
    /// Write the contracts of a tree to the database, as far as they are new
    ///
    /// Checks them as `check` does, against the database too, and writes all or none. A version that
    /// was pushed never changes.
    Push(PushArgs),
    /// List the contracts of the database
    List,
    /// Show a schema as it was pushed
    Show(ShowArgs),
    /// Say what a reader of one version cannot read of another
    Diff(DiffArgs),
    /// Write contracts down as types of another language
    #[command(disable_version_flag = true)]
    Types(TypesArgs),
    /// Remove a contract that was pushed by mistake
    ///
    /// Messages that name its version are of an unknown version from then on.
    Remove(RemoveArgs),
}

/// Which contracts, and what they are compared with.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Folder of the contracts
    #[arg(default_value = "contracts", value_name = "ROOT")]
    root: PathBuf,
    #[command(flatten)]
    demand: DemandArgs,
    /// Also compare with another tree, for example that of the main branch
    #[arg(long, value_name = "ROOT", conflicts_with = "against_database")]
    against: Option<PathBuf>,
    /// Also compare with what was pushed
    #[arg(long)]
    against_database: bool,
    #[command(flatten)]
    payload: PayloadArgs,
}

/// One payload to judge.
#[derive(Args, Debug)]
struct PayloadArgs {
    /// Judge this payload alone; - for stdin
    #[arg(
        id = "judged",
        long = "payload",
        value_name = "FILE",
        requires_all = ["judged_topic", "judged_version"],
        conflicts_with_all = ["compatibility", "against", "against_database"]
    )]
    file: Option<PathBuf>,
    /// Topic of the payload
    #[arg(id = "judged_topic", long = "topic", value_name = "TOPIC", requires = "judged")]
    topic: Option<String>,
    /// Version of the payload's contract
    #[arg(id = "judged_version", long = "version", value_name = "N", requires = "judged")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
}

/// How much is asked of a new version.
#[derive(Args, Clone, Copy, Debug)]
struct DemandArgs {
    /// What a version must be able to do with the one before it
    #[arg(long, value_enum, default_value_t = Demand::Backward, value_name = "DEMAND")]
    compatibility: Demand,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Demand {
    /// Read what it wrote: consumers are updated first
    Backward,
    /// Be read by it: producers are updated first
    Forward,
    /// Both
    Full,
    /// Nothing
    None,
}

/// Which contracts to write.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// Folder of the contracts
    #[arg(default_value = "contracts", value_name = "ROOT")]
    root: PathBuf,
    #[command(flatten)]
    demand: DemandArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Which schema.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Topic
    topic: String,
    /// Version; the newest without it
    #[arg(value_name = "VERSION")]
    number: Option<u32>,
}

/// Which two versions, and where they are.
#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// Topic
    topic: String,
    /// One version
    #[arg(value_name = "A")]
    one: u32,
    /// The other version
    #[arg(value_name = "B")]
    other: u32,
    /// Folder of the contracts
    #[arg(default_value = "contracts", value_name = "ROOT")]
    root: PathBuf,
    /// Compare what was pushed, instead of files
    #[arg(long, conflicts_with = "root")]
    database: bool,
}

/// Which contract to remove.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Topic
    topic: String,
    /// Version
    #[arg(value_name = "VERSION")]
    number: u32,
    #[command(flatten)]
    change: ChangeArgs,
}

impl ContractsCommand {
    /// Whether it is about more than files.
    pub(crate) const fn needs_database(&self) -> bool {
        match self {
            Self::Check(args) => args.against_database,
            Self::Diff(args) => args.database,
            Self::Types(_) => false,
            Self::Push(_) | Self::List | Self::Show(_) | Self::Remove(_) => true,
        }
    }
}

impl DemandArgs {
    const fn demand(self) -> Compatibility {
        match self.compatibility {
            Demand::Backward => Compatibility::Backward,
            Demand::Forward => Compatibility::Forward,
            Demand::Full => Compatibility::Full,
            Demand::None => Compatibility::None,
        }
    }
}

/// Runs what needs the files alone.
pub(crate) fn run(command: &ContractsCommand, out: &mut Output) -> Result {
    match command {
        ContractsCommand::Check(args) => {
            if args.payload.file.is_some() {
                return payload::judge(args, out);
            }
            let known = args.against.as_deref().map(Known::in_files).transpose()?;
            check(args, known.as_ref(), out)
        }
        ContractsCommand::Diff(args) => {
            let tree = Tree::read(&args.root)?;
            let contract = |version| tree.contract(&args.topic, version);
            diff::run(args, &contract(args.one)?, &contract(args.other)?, out)
        }
        ContractsCommand::Types(args) => types::run(args, out),
        _ => Ok(()),
    }
}

/// Runs what needs the database.
pub(crate) async fn run_on(
    command: &ContractsCommand,
    config: &Config,
    out: &mut Output,
) -> Result {
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    match command {
        ContractsCommand::Check(args) => {
            check(args, Some(&Known::in_database(&*store).await?), out)
        }
        ContractsCommand::Push(args) => pushed::push(args, &*store, out).await,
        ContractsCommand::List => pushed::list(&*store, out).await,
        ContractsCommand::Show(args) => pushed::show(args, &*store, out).await,
        ContractsCommand::Diff(args) => {
            let known = Known::in_database(&*store).await?;
            let contract = |version| known.contract(&args.topic, version);
            diff::run(args, &contract(args.one)?, &contract(args.other)?, out)
        }
        ContractsCommand::Remove(args) => pushed::remove(args, &*store, out).await,
        ContractsCommand::Types(_) => Ok(()),
    }
}

fn check(args: &CheckArgs, known: Option<&Known>, out: &mut Output) -> Result {
    let tree = Tree::read(&args.root)?;
    Report::of(&tree, args.demand.demand(), known).print(out)
}
