//! `cargo run -p run-stream`: serves a page on which runs are started and watched, until it is interrupted.

use std::{error::Error, process::ExitCode, sync::Arc, time::Duration};

use posthaste_core::describe;
use posthaste_server::NewSecret;
use run_stream::{
    database::Database,
    page::Page,
    runs::Runs,
    service::{Api, relay},
    settings::Settings,
};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

/// Between two steps of a run.
const PACE: Duration = Duration::from_millis(250);

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
    // Fails where somebody else was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    let database = Database::open(&settings.database).await?;
    let socket = TcpListener::bind(settings.page)
        .await
        .map_err(|error| format!("PAGE_ADDRESS {}: {error}", settings.page))?;
    let at = socket.local_addr()?;
    let secret = Arc::new(NewSecret::random());
    let api = Api::start(&database, settings.api, at, &secret)?;
    let publishing = settings.redis.as_deref().map(|url| relay(&database, url, "")).transpose()?;
    let page = Page::new(Runs::new(database), api.address, secret, PACE)?;
    println!("page:    http://{at}");
    println!("streams: http://{}/api/v1/streams", api.address);
    match &publishing {
        Some(_) => println!("Redis:   the same events on the channels run:…"),
        None => println!("Redis:   none (REDIS_URL)"),
    }
    axum::serve(socket, page.router())
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    api.stop().await?;
    if let Some(publishing) = publishing {
        publishing.stop().await?;
    }
    Ok(())
}
