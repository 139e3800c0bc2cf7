//! `benchmark-jobs [FILE…]`: submits job specifications, runs them, and shows the answers. `benchmark-jobs serve` goes on
//! until it is interrupted, for jobs that come from elsewhere; `benchmark-jobs show ID` shows one.

use std::{error::Error, process::ExitCode, time::Duration};

use benchmark_jobs::{Catalogue, Place, Runner, Settings, Shown};
use posthaste_worker::WorkerSettings;
use tokio::{sync::oneshot, time::sleep};

/// What is submitted if nothing is named.
const SAMPLES: [&str; 2] =
    [include_str!("../jobs/who-are-you.json"), include_str!("../jobs/one-question.json")];

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(std::env::args().skip(1).collect()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Vec<String>) -> Result<(), Failure> {
    let settings = Settings {
        database: std::env::var("DATABASE_URL").unwrap_or("sqlite:benchmark-jobs.db".to_owned()),
        redis: std::env::var("REDIS_URL").ok(),
    };
    let place = Place::open(&settings).await?;
    let runner = Runner::new(Catalogue::built_in(), place.contracts());
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => {
            let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
            place.run(runner, WorkerSettings::default(), stop).await?;
            Ok(())
        }
        ["show", id] => {
            let shown = place.show(id).await?.ok_or(format!("there is no job {id:?}"))?;
            print(&shown);
            Ok(())
        }
        files => {
            let mut specs: Vec<Vec<u8>> = SAMPLES.map(|text| text.as_bytes().to_vec()).into();
            if !files.is_empty() {
                specs = files
                    .iter()
                    .map(|file| std::fs::read(file).map_err(|error| format!("{file}: {error}")))
                    .collect::<Result<_, _>>()?;
            }
            submit_and_run(&place, runner, &specs).await
        }
    }
}

async fn submit_and_run(place: &Place, runner: Runner, specs: &[Vec<u8>]) -> Result<(), Failure> {
    let mut ids = Vec::new();
    for spec in specs {
        let submitted = place.submit(spec).await?;
        println!("{}", serde_json::to_string(&submitted)?);
        ids.push(submitted.id);
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let watch = async {
        for id in ids {
            print(&over(place, &id).await?);
        }
        drop(stop);
        Ok::<_, Failure>(())
    };
    let run = async {
        place.run(runner, WorkerSettings::default(), shutdown).await?;
        Ok(())
    };
    tokio::try_join!(watch, run)?;
    Ok(())
}

/// The job, once it is over.
async fn over(place: &Place, id: &str) -> Result<Shown, Failure> {
    loop {
        let shown = place.show(id).await?.ok_or("a job that was submitted is gone")?;
        if shown.job.status.is_final() {
            return Ok(shown);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn print(shown: &Shown) {
    println!("\n{}: {}", shown.job.id, shown.job.status);
    if let Some(reason) = &shown.reason {
        println!("  {reason}");
    }
    for answered in &shown.answers {
        println!("  {} | {}\n    {}", answered.category, answered.question, answered.response);
    }
}
