//! One file per command; [`run`] reads the configuration, starts logging, and hands over.

pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod contracts;
pub(crate) mod dead_letters;
pub(crate) mod doctor;
pub(crate) mod enqueue;
pub(crate) mod import;
pub(crate) mod jobs;
pub(crate) mod machines;
pub(crate) mod metrics;
pub(crate) mod migrate;
pub(crate) mod relay;
pub(crate) mod replay;
pub(crate) mod roles;
mod selection;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod subscriptions;
pub(crate) mod sweep;
pub(crate) mod tail;
pub(crate) mod tokens;
pub(crate) mod worker;

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use serde_json::json;
use tokio::runtime::Runtime;

use self::machines::MachinesCommand;
use crate::{
    cli::{Cli, Command},
    config::{self as configuration, DatabaseUrl, Flags, Loaded},
    demo,
    exit::Exit,
    failure::{Failure, Result},
    logging,
    output::Output,
};

/// Runs the command of a parsed command line to its end.
pub(crate) fn run(cli: Cli) -> Result {
    let mut out = Output::new(cli.global.json);
    let flags = cli.global.flags();
    let load = || configuration::load(cli.global.config.as_deref(), &flags);
    match cli.command {
        Command::Completions(args) => completions::run(&args, &mut out),
        Command::Metrics(command) => metrics::run(command, &mut out),
        Command::Tokens(command) => tokens::run(&command, &mut out),
        Command::Demo(args) => runtime()?.block_on(demo::run(&args, &mut out)),
        Command::Machines(MachinesCommand::Files(command)) => machines::run(&command, &mut out),
        Command::Contracts(command) if !command.needs_database() => {
            contracts::run(&command, &mut out)
        }
        Command::Config(command) => {
            warn_of_password(&flags, cli.global.json);
            config::run(command, load, &mut out)
        }
        command => {
            warn_of_password(&flags, cli.global.json);
            let loaded = load();
            if !loaded.problems.is_empty() {
                return Err(Failure::configuration(loaded.problems));
            }
            logging::start(&loaded.config.log)?;
            runtime()?.block_on(run_on(command, &loaded, &mut out))
        }
    }
}

fn runtime() -> Result<Runtime> {
    Runtime::new().map_err(|error| Failure::caused(Exit::Failed, "cannot start threads", error))
}

/// The commands that need the database.
async fn run_on(command: Command, loaded: &Loaded, out: &mut Output) -> Result {
    let config = &loaded.config;
    match command {
        Command::Migrate(args) => migrate::run(&args, config, out).await,
        Command::Enqueue(args) => enqueue::run(args, config, out).await,
        Command::Cancel(args) => enqueue::cancel(&args, config, out).await,
        Command::Import(args) => import::run(&args, config, out).await,
        Command::Relay(args) => relay::run(&args, config).await,
        Command::Worker(args) => worker::run(&args, config).await,
        Command::Serve(args) => serve::run(&args, config).await,
        Command::Status => status::run(config, out).await,
        Command::Sweep => sweep::run(config, out).await,
        Command::Tail(args) => tail::run(&args, config, out).await,
        Command::Subscriptions(command) => subscriptions::run(&command, config, out).await,
        Command::DeadLetters(command) => dead_letters::run(&command, config, out).await,
        Command::Jobs(command) => jobs::run(command, config, out).await,
        Command::Replay(args) => replay::run(&args, config, out).await,
        Command::Roles(args) => roles::run(&args, config, out).await,
        Command::Doctor(args) => doctor::run(&args, config, out).await,
        Command::Erase(args) => replay::erase(&args, config, out).await,
        Command::Machines(MachinesCommand::Push(args)) => machines::push(&args, config, out).await,
        Command::Contracts(command) => contracts::run_on(&command, config, out).await,
        Command::Config(_)
        | Command::Completions(_)
        | Command::Demo(_)
        | Command::Machines(_)
        | Command::Metrics(_)
        | Command::Tokens(_) => Ok(()),
    }
}

/// A password on the command line stands in every process list of the machine.
fn warn_of_password(flags: &Flags, json: bool) {
    let url = flags.database_url.as_deref().unwrap_or_default().parse::<DatabaseUrl>();
    if !url.is_ok_and(|url| url.has_password()) {
        return;
    }
    let message = "--database-url holds a password, which process lists show; use \
                   POSTHASTE_DATABASE__PASSWORD or database.password_file";
    let yellow = Style::new().bold().fg_color(Some(AnsiColor::Yellow.into()));
    let line = if json {
        json!({ "warning": { "message": message } }).to_string()
    } else {
        format!("{yellow}warning:{yellow:#} {message}")
    };
    let _ = writeln!(anstream::stderr(), "{line}");
}
