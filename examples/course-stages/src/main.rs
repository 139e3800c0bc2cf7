//! `cargo run -p course-stages`: generates courses and prints what happened, step by step.

use std::{error::Error, process::ExitCode, time::Duration};

use course_stages::{
    courses::Courses,
    database::Database,
    scenarios::{self, Outcome, Scenario},
    service::{Parts, Queue, Report, Service},
    settings::Settings,
};
use posthaste_core::describe;
use tracing_subscriber::EnvFilter;
use uuid::Uuid;

/// Longest wait for one course.
const LIMIT: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", describe(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    settings.queue.preflight().await?;
    let database = Database::open(&settings.database).await?;
    println!("database: {}", database.store.describe());
    println!("queue:    {}", name_of(&settings.queue));
    let courses = Courses::new(database);
    let service = Service::start(&courses, &settings.queue, Parts::default())?;
    let mut failed = None;
    for scenario in scenarios::all(&Uuid::now_v7().to_string()) {
        match scenarios::play(&courses, &service, &scenario.course, LIMIT).await {
            Ok(outcome) => print_outcome(&scenario, &outcome),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    // Where the service has ended by itself, that is the reason.
    let report = service.stop().await?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    print_report(&report);
    Ok(())
}

const fn name_of(queue: &Queue) -> &'static str {
    match queue {
        Queue::Embedded => "in the process",
        Queue::Stream { .. } => "a Redis stream",
        Queue::Bullmq { .. } => "BullMQ",
    }
}

fn print_outcome(scenario: &Scenario, outcome: &Outcome) {
    println!("\n{}", scenario.name);
    let initiated = &outcome.initiated;
    println!("  command: {}, {} job(s)", initiated.fsm_state, initiated.outbox_entries.len());
    let began = outcome.events.first().map_or(0, |event| event.at_us);
    for event in &outcome.events {
        let ms = (event.at_us - began) as f64 / 1_000.0;
        println!("  {ms:>8.1} ms  {:<20} by {}", event.state, event.by);
    }
    for summary in &outcome.summaries {
        println!("  document: {summary}");
    }
    let sections: Vec<&str> =
        outcome.structure.sections.iter().map(|section| section.title.as_str()).collect();
    let style = outcome.structure.style.name();
    println!("  course: {:?}, {style}: {}", outcome.structure.title, sections.join(", "));
}

fn print_report(report: &Report) {
    let Report { listener, worker } = report;
    println!("\njobs done: {}, failed attempts: {}", worker.completed, worker.failed);
    println!(
        "layer 2, the listener: {} jobs seen, {} machines started, {} warnings",
        listener.taken, listener.mended, listener.unmended
    );
    println!(
        "layer 3, the worker:   {} jobs seen, {} machines started, {} warnings",
        worker.taken, worker.mended, worker.unmended
    );
}
