//! The application's own web server: the page, the runs, and the tickets by which browsers follow them.
//!
//! The secret of the API's token stays here. A browser gets a ticket for the one run that it wants to watch.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{Html, IntoResponse as _, Response},
    routing::{get, post},
};
use posthaste_core::describe;
use posthaste_server::NewSecret;
use serde_json::{Value, json};

use crate::runs::{RunError, Runs, TOPIC};

const PAGE: &str = include_str!("../page.html");
/// Longest call of the API.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of a run that is begun on the page.
const STEPS: u32 = 20;

/// What the page needs.
pub struct Page {
    runs: Runs,
    api: SocketAddr,
    secret: Arc<NewSecret>,
    client: reqwest::Client,
    /// Between two steps of a run.
    pace: Duration,
}

impl Page {
    /// A page of these runs, whose streams are at `api`.
    ///
    /// # Errors
    /// There is no client for HTTP to be had.
    pub fn new(
        runs: Runs,
        api: SocketAddr,
        secret: Arc<NewSecret>,
        pace: Duration,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        Ok(Self { runs, api, secret, client, pace })
    }

    /// `GET /`, `POST /runs`, `POST /runs/{id}/ticket`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(async || Html(PAGE)))
            .route("/runs", post(start))
            .route("/runs/{id}/ticket", post(ticket))
            .with_state(Arc::new(self))
    }
}

/// Begins a run, which goes on by itself.
async fn start(State(page): State<Arc<Page>>) -> Response {
    let id = match page.runs.start(STEPS).await {
        Ok(id) => id,
        Err(error) => return failed(&error),
    };
    let (runs, of_task, pace) = (page.runs.clone(), id.clone(), page.pace);
    tokio::spawn(async move {
        if let Err(error) = runs.play(&of_task, pace).await {
            eprintln!("run {of_task}: {}", describe(&error));
        }
    });
    (StatusCode::CREATED, Json(json!({ "id": id }))).into_response()
}

/// A ticket for the stream of one run, and where that is.
async fn ticket(State(page): State<Arc<Page>>, Path(id): Path<String>) -> Response {
    match page.runs.progress(&id).await {
        Ok(Some(_)) => {}
        Ok(None) => return failed(&RunError::Unknown(id)),
        Err(error) => return failed(&error),
    }
    let url = format!("http://{}/api/v1/streams", page.api);
    let asked = page
        .client
        .post(format!("{url}/tickets"))
        .bearer_auth(&page.secret.secret)
        .header("content-type", "application/json")
        .body(json!({ "topic": TOPIC, "key": id }).to_string());
    let made = async {
        let answer = asked.send().await?.error_for_status()?;
        answer.bytes().await
    };
    match made.await {
        Ok(bytes) => {
            let made: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let ticket = made["ticket"].as_str().unwrap_or_default();
            Json(json!({ "stream": format!("{url}?ticket={ticket}") })).into_response()
        }
        Err(error) => {
            eprintln!("get a ticket: {}", describe(&error));
            StatusCode::BAD_GATEWAY.into_response()
        }
    }
}

fn failed(error: &RunError) -> Response {
    let status = match error {
        RunError::Unknown(_) => StatusCode::NOT_FOUND,
        RunError::Row(_) | RunError::Event(_) => {
            eprintln!("a run: {}", describe(error));
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    status.into_response()
}
