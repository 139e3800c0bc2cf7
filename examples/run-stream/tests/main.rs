//! Runs from their first step to the page: on both databases, through restarts of the server, and on Redis beside.
// clippy.toml allows it in test functions only; here the functions beside them are tests too.
#![allow(clippy::unwrap_used)]

mod browser;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use posthaste_server::NewSecret;
use posthaste_testkit::{Postgres, Redis};
use run_stream::{
    database::Database,
    page::Page,
    runs::{Event, RunError, Runs},
    service::{Api, relay},
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use browser::{Browser, Shown};

/// Nothing here takes longer on a machine that is busy.
const LIMIT: Duration = Duration::from_mins(1);

/// The application with its page, and the API that it calls.
struct Application {
    database: Database,
    runs: Runs,
    page: SocketAddr,
    serving: JoinHandle<()>,
    secret: Arc<NewSecret>,
    api: Option<Api>,
    client: reqwest::Client,
}

impl Drop for Application {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Application {
    async fn start(url: &str) -> Self {
        Self::with_pace(url, Duration::from_millis(20)).await
    }

    /// With so long between two steps of a run that is started on the page.
    async fn with_pace(url: &str, pace: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let database = Database::open(url).await.unwrap();
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = TcpListener::bind(local).await.unwrap();
        let page = socket.local_addr().unwrap();
        let secret = Arc::new(NewSecret::random());
        let api = Api::start(&database, local, page, &secret).unwrap();
        let runs = Runs::new(database.clone());
        let router =
            Page::new(runs.clone(), api.address, Arc::clone(&secret), pace).unwrap().router();
        let serving = tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { database, runs, page, serving, secret, api: Some(api), client }
    }

    /// The server ends and begins again at the same address.
    async fn restart_api(&mut self) {
        let address = self.stop_api().await;
        self.start_api(address);
    }

    async fn stop_api(&mut self) -> SocketAddr {
        let api = self.api.take().unwrap();
        let address = api.address;
        api.stop().await.unwrap();
        address
    }

    fn start_api(&mut self, address: SocketAddr) {
        self.api = Some(Api::start(&self.database, address, self.page, &self.secret).unwrap());
    }

    async fn post(&self, path: &str) -> reqwest::Response {
        self.client.post(format!("http://{}{path}", self.page)).send().await.unwrap()
    }

    async fn json(answer: reqwest::Response) -> Value {
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// Sees what the page sees of a run, from the event behind `last` on: as a browser does that has lost its ticket.
    async fn follow(&self, id: &str, last: &mut String, seen: &mut Vec<Event>) {
        let ticket = Self::json(self.post(&format!("/runs/{id}/ticket")).await).await;
        let stream = ticket["stream"].as_str().unwrap();
        let origin = format!("http://{}", self.page);
        let asked = self.client.get(format!("{stream}&since={last}")).header("origin", &origin);
        let Ok(mut answer) = asked.send().await else { return };
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["access-control-allow-origin"], origin.as_str());
        let mut text = String::new();
        while let Ok(Some(chunk)) = timeout(LIMIT, answer.chunk()).await.expect("a word") {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((frame, rest)) = text.split_once("\n\n") {
                for line in frame.lines() {
                    if let Some(id) = line.strip_prefix("id: ") {
                        id.clone_into(last);
                    } else if let Some(data) = line.strip_prefix("data: ") {
                        let event: Value = serde_json::from_str(data).unwrap();
                        assert_eq!(
                            (&event["key"], &event["correlation_id"]),
                            (&id.into(), &id.into())
                        );
                        seen.push(serde_json::from_value(event["payload"].clone()).unwrap());
                    }
                }
                text = rest.to_owned();
            }
            if seen.last() == Some(&Event::Finished) {
                return;
            }
        }
    }
}

/// What a run of so many steps tells.
fn story(steps: u32) -> Vec<Event> {
    let step = |step| Event::Step { step, steps };
    let mut story = vec![Event::Started { steps }];
    story.extend((1..=steps).map(step));
    story.push(Event::Finished);
    story
}

async fn page_sees_every_step_once_and_in_order_while_the_server_is_restarted(url: &str) {
    let mut application = Application::start(url).await;
    let answer = application.post("/runs").await;
    assert_eq!(answer.status(), 201);
    let run = Application::json(answer).await["id"].as_str().unwrap().to_owned();
    // Another one, of which this page must see nothing.
    let other = application.runs.start(3).await.unwrap();
    application.runs.play(&other, Duration::ZERO).await.unwrap();
    let (mut last, mut seen) = ("beginning".to_owned(), Vec::new());
    for _ in 0..2 {
        let some = application.follow(&run, &mut last, &mut seen);
        let _ = timeout(Duration::from_millis(100), some).await;
        application.restart_api().await;
    }
    while seen.last() != Some(&Event::Finished) {
        application.follow(&run, &mut last, &mut seen).await;
    }
    assert_eq!(seen, story(20));
    assert_eq!(application.runs.progress(&run).await.unwrap(), Some((20, 20)));
    assert_eq!(application.post("/runs/nobody/ticket").await.status(), 404);
    let unknown = application.runs.advance("nobody").await.unwrap_err();
    assert!(matches!(unknown, RunError::Unknown(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_page_sees_every_step_on_the_embedded_default() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("runs.db").display());
    page_sees_every_step_once_and_in_order_while_the_server_is_restarted(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_page_sees_every_step_on_postgresql() {
    let database = Postgres::shared().database().await;
    page_sees_every_step_once_and_in_order_while_the_server_is_restarted(database.url()).await;
}

/// The steps of the run are this test's to take, so that the server is away in the middle of it, and between two events.
async fn browser_shows_every_event_once_and_in_order_while_the_server_is_restarted(url: &str) {
    let mut application = Application::with_pace(url, Duration::MAX).await;
    let page = format!("http://{}", application.page);
    let mut browser = spawn_blocking(move || Browser::open(&page)).await.unwrap();
    let mut shown;
    (browser, shown) = seen(browser, 1).await;
    let run = shown.run.clone();
    for events in [6, 11, 22] {
        // Nobody hears of some of them before the server is back, and of others before it goes.
        steps(&application.runs, &run, 2).await;
        let address = application.stop_api().await;
        steps(&application.runs, &run, 2).await;
        application.start_api(address);
        steps(&application.runs, &run, events - shown.events.len() - 4).await;
        (browser, shown) = seen(browser, events).await;
        assert_eq!(shown.events, told(20)[..events]);
    }
    assert!(shown.told.ends_with("0 gaps"), "{}", shown.told);
    let ended = spawn_blocking(move || browser.ends()).await.unwrap();
    assert!(ended.errors.is_empty(), "{ended:?}");
}

async fn seen(mut browser: Browser, events: usize) -> (Browser, Shown) {
    spawn_blocking(move || {
        let shown = browser.until(events);
        (browser, shown)
    })
    .await
    .unwrap()
}

async fn steps(runs: &Runs, run: &str, steps: usize) {
    for _ in 0..steps {
        runs.advance(run).await.unwrap();
    }
}

/// What the page shows of a run of so many steps.
fn told(steps: u32) -> Vec<String> {
    let steps = (1..=steps).map(|step| step.to_string());
    ["started".to_owned()].into_iter().chain(steps).chain(["finished".to_owned()]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r48_browser_shows_every_event_on_the_embedded_default() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("runs.db").display());
    browser_shows_every_event_once_and_in_order_while_the_server_is_restarted(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r48_browser_shows_every_event_on_postgresql() {
    let database = Postgres::shared().database().await;
    browser_shows_every_event_once_and_in_order_while_the_server_is_restarted(database.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_channel_of_a_run_carries_the_same_events() {
    let database = Postgres::shared().database().await;
    let redis = Redis::shared();
    let prefix = redis.prefix();
    let application = Application::start(database.url()).await;
    let run = application.runs.start(5).await.unwrap();
    let channel = format!("{prefix}run:{run}");
    let client = redis::Client::open(redis.url()).unwrap();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let listening = spawn_blocking(move || {
        let mut connection = client.get_connection().unwrap();
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        let mut channels = connection.as_pubsub();
        channels.subscribe(channel).unwrap();
        ready.send(()).unwrap();
        let heard = |_| channels.get_message().unwrap().get_payload::<String>().unwrap();
        (0..story(5).len()).map(heard).collect::<Vec<_>>()
    });
    is_ready.await.unwrap();
    let publishing = relay(&application.database, &redis.url(), &prefix).unwrap();
    application.runs.play(&run, Duration::ZERO).await.unwrap();
    let heard = timeout(LIMIT, listening).await.expect("all of them").unwrap();
    let heard: Vec<Event> = heard.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(heard, story(5));
    publishing.stop().await.unwrap();
}
