//! The command line: what can be asked for, and what `--help` says about it. Acts on nothing.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::{
    commands::{
        completions::CompletionsArgs,
        config::ConfigCommand,
        contracts::ContractsCommand,
        dead_letters::DeadLettersCommand,
        doctor::DoctorArgs,
        enqueue::{CancelArgs, EnqueueArgs},
        import::ImportArgs,
        jobs::JobsCommand,
        machines::MachinesCommand,
        metrics::MetricsCommand,
        migrate::MigrateArgs,
        relay::RelayArgs,
        replay::{EraseArgs, ReplayArgs},
        roles::RolesArgs,
        serve::ServeArgs,
        subscriptions::SubscriptionsCommand,
        tail::TailArgs,
        tokens::TokensCommand,
        worker::WorkerArgs,
    },
    config::Flags,
    demo::DemoArgs,
    exit::Exit,
};

/// A transactional outbox: carries every committed message from your database to your broker.
#[derive(Debug, Parser)]
#[command(name = "posthaste", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = Exit::help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Configuration file [default: posthaste.toml, if it is there]
    #[arg(
        long,
        global = true,
        env = "POSTHASTE_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Database: postgres://… or sqlite:PATH (keep passwords out: process lists show them)
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Schema of Posthaste's objects
    #[arg(long, global = true, value_name = "NAME")]
    schema: Option<String>,
    /// Form of log lines: human, json or auto
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Least severe level of log lines: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// One JSON object per line on stdout, also on a terminal; errors as JSON on stderr
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    pub(crate) json: bool,
}

impl Global {
    /// The flags that stand over file and environment.
    pub(crate) fn flags(&self) -> Flags {
        Flags {
            database_url: self.database_url.clone(),
            schema: self.schema.clone(),
            log_format: self.log_format.clone(),
            log_level: self.log_level.clone(),
        }
    }
}

/// The commands, in the order in which a newcomer meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch it work: sample orders, a relay, and a consumer that checks what arrives
    ///
    /// Needs nothing and leaves nothing behind: SQLite in a temporary directory and a consumer in
    /// this process, or a PostgreSQL and a Redis of yours with --store and --sink. Fails unless
    /// nothing was lost, duplicated or reordered.
    Demo(DemoArgs),
    /// Create the schema in the database, or bring it up to date
    Migrate(MigrateArgs),
    /// Create group roles for writers, relays, workers and viewers (PostgreSQL)
    Roles(RolesArgs),
    /// Write messages to the log, each call in a transaction of its own
    Enqueue(EnqueueArgs),
    /// Take a scheduled message back, as long as it waits for its time
    Cancel(CancelArgs),
    /// Copy an outbox that you have kept in a table of your own into the log (PostgreSQL)
    ///
    /// Each row once and in order: every batch commits together with the note that its rows are
    /// copied, so that it may be killed and run again. Rows that commit meanwhile come behind the
    /// others; at the end it says how many are left and who still writes. Stop whatever publishes
    /// the table before it begins.
    Import(ImportArgs),
    /// Publish the messages of the configured subscriptions to their sinks
    ///
    /// Runs until SIGTERM or SIGINT, then finishes what is in flight and exits with 0. A second
    /// signal ends it at once. `relay.enabled` does not concern this command: it is the switch
    /// of relays embedded in a service.
    Relay(RelayArgs),
    /// Run jobs and handle messages with programs or HTTP endpoints, each once
    ///
    /// Runs the configured workers until SIGTERM or SIGINT, then finishes what they have in hand and exits with
    /// 0. A second signal ends it at once.
    Worker(WorkerArgs),
    /// Serve the HTTP API, and run the relay and the workers beside it
    ///
    /// Jobs, subscriptions, health and metrics over HTTP, on 127.0.0.1:8480 unless `server.listen` says
    /// otherwise. Runs until SIGTERM or SIGINT, then answers what is in progress, drains the relay and the workers and
    /// exits with 0. A second signal ends it at once. `server.relay` and `server.workers` switch these parts off.
    Serve(ServeArgs),
    /// Make tokens for the server
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// Show the log and how far each subscription has come
    Status,
    /// Show the newest messages of the log
    Tail(TailArgs),
    /// List, pause, resume, rewind or remove subscriptions
    #[command(subcommand)]
    Subscriptions(SubscriptionsCommand),
    /// List, show, replay or discard messages that are out of attempts
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Submit, list, show, cancel or retry jobs; find out why they wait
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Publish messages of the log again, to the same or another subscription
    ///
    /// Beside its stream, in their own order; the consumer gets the same message ids again.
    Replay(ReplayArgs),
    /// Forget what is past its retention: handled messages, commands, tokens, settled messages
    ///
    /// A relay does so by itself. For databases without one, such as a consumer's; run it daily.
    Sweep,
    /// Erase payload and headers of messages, by id or key; their places stay
    Erase(EraseArgs),
    /// Find drift between writer, relay and consumer before it costs a message
    ///
    /// Topics that are written and not read, subscriptions that nobody publishes, another database,
    /// another prefix, sinks that cannot be reached. Publishes nothing.
    Doctor(DoctorArgs),
    /// Check, draw, show or push state machines
    #[command(subcommand)]
    Machines(MachinesCommand),
    /// Check, push, compare or show contracts: what payloads must look like
    #[command(subcommand)]
    Contracts(ContractsCommand),
    /// Check, show or explain the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Explain the metrics that a relay serves
    #[command(subcommand)]
    Metrics(MetricsCommand),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}
