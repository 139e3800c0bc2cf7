//! A database in which every route that changes something finds what it changes, and a server with tokens.

use std::sync::Arc;

use posthaste_server::{NoParts, Scope};
use posthaste_testkit::eventually_async;
use serde_json::{Value, json};

use super::{Answer, LIMIT, Place, Running, dead::Dead, settings, token};

/// What there is, and a caller named `operator` who may do everything with it.
pub(crate) struct World {
    pub(crate) server: Running,
    pub(crate) secret: String,
    /// Of a token that may only look.
    pub(crate) onlooker: String,
    pub(crate) dead: Dead,
    /// Jobs that wait, and one that was cancelled.
    pub(crate) job: String,
    pub(crate) waiting: String,
    pub(crate) over: String,
    /// A message that is scheduled, and one of the log.
    pub(crate) message: String,
    pub(crate) logged: String,
    /// An operation that runs for hours, and one that is over.
    pub(crate) operation: String,
    pub(crate) done: String,
}

/// Nothing has this id.
const NOBODY: &str = "018f0000-0000-7000-8000-000000000001";

impl World {
    pub(crate) async fn on(place: &Place) -> Self {
        let dead = Dead::of(place, &["a"; 6]).await;
        dead.released().await;
        crate::machines::begun(place).await;
        let mut settings = settings();
        let operator = [Scope::View, Scope::Payloads, Scope::Enqueue, Scope::Operate];
        let (operator, secret) = token(&operator, None);
        let (viewer, onlooker) = token(&[Scope::View], None);
        settings.tokens.extend([("operator".to_owned(), operator), ("eye".to_owned(), viewer)]);
        let server = Running::with(place, settings, Arc::new(NoParts)).await;
        let none = String::new;
        let mut world = Self {
            server,
            secret,
            onlooker,
            dead,
            job: none(),
            waiting: none(),
            over: none(),
            message: none(),
            logged: none(),
            operation: none(),
            done: none(),
        };
        world.fill().await;
        world
    }

    async fn fill(&mut self) {
        let plain = json!({ "topic": "t", "payload": 1 });
        let later = json!({ "topic": "t", "deliver_at": "2100-01-01T00:00:00Z" });
        self.job = self.made("/api/v1/jobs", &plain).await;
        self.waiting = self.made("/api/v1/jobs", &plain).await;
        self.over = self.made("/api/v1/jobs", &plain).await;
        let cancelled = self.post(&format!("/api/v1/jobs/{}/cancel", self.over), b"").await;
        assert_eq!(cancelled.status, 200, "{cancelled:?}");
        self.message = self.made("/api/v1/messages", &later).await;
        self.logged = self.made("/api/v1/messages", &plain).await;
        let replay = "/api/v1/dead-letters/replay";
        self.done = self.made(replay, &json!({ "key": "nobody" })).await;
        eventually_async("an operation to be over", LIMIT, async || self.is_over(&self.done).await)
            .await;
        let slow = json!({ "ids": self.dead.ids[4..], "rate": 0.001 });
        self.operation = self.made(replay, &slow).await;
        let path = format!("/api/v1/operations/{}", self.operation);
        eventually_async("its first piece", LIMIT, async || self.get(&path).await["done"] == 1)
            .await;
    }

    async fn made(&self, path: &str, body: &Value) -> String {
        let answer = self.post(path, body.to_string().as_bytes()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Whether an operation is over.
    pub(crate) async fn is_over(&self, id: &str) -> bool {
        !self.get(&format!("/api/v1/operations/{id}")).await["ended_at"].is_null()
    }

    /// The path of a route, to what there is.
    pub(crate) fn path(&self, route: &str) -> String {
        let dead = |n: usize| self.dead.ids[n].to_string();
        let id = match route {
            "/api/v1/jobs/{id}/retry" => self.over.clone(),
            path if path.starts_with("/api/v1/jobs") => self.job.clone(),
            path if path.starts_with("/api/v1/messages") => self.message.clone(),
            path if path.starts_with("/api/v1/operations") => self.operation.clone(),
            path if path.starts_with("/api/v1/machines") => "o%2F1".to_owned(),
            path if path.ends_with("discard") => dead(3),
            _ => dead(2),
        };
        let name = if route.starts_with("/api/v1/machines") { "order" } else { "orders" };
        let path = route.replace("{subscription}", "orders").replace("{topic}", "t");
        path.replace("{name}", name).replace("{id}", &id)
    }

    /// The path of a route, to what there is not.
    pub(crate) fn nowhere(route: &str) -> String {
        let path = route.replace("{name}", "nobody").replace("{subscription}", "nobody");
        path.replace("{id}", NOBODY).replace("{topic}", "nothing")
    }

    /// A body that a route takes.
    pub(crate) fn body(&self, route: &str) -> Value {
        match route {
            "/api/v1/jobs" | "/api/v1/messages" => json!({ "topic": "t", "payload": 1 }),
            "/api/v1/jobs/{id}/retry" => json!({ "attempts": 2 }),
            "/api/v1/subscriptions/{name}/rewind" => json!({ "to": "beginning" }),
            "/api/v1/subscriptions/{name}/replay" => json!({ "all": true }),
            "/api/v1/dead-letters/replay" => json!({ "ids": self.dead.ids[..1] }),
            "/api/v1/dead-letters/discard" => json!({ "ids": self.dead.ids[1..2] }),
            "/api/v1/machines/{name}/entities/{id}/transition" => {
                json!({ "to": "paid", "metadata": { "amount": 7 } })
            }
            _ => json!({}),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.server.ask("GET", path, &[("authorization", &self.secret)], b"").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    pub(crate) async fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.post_as(&self.secret, path, body).await
    }

    pub(crate) async fn post_as(&self, secret: &str, path: &str, body: &[u8]) -> Answer {
        let headers = [("authorization", secret), ("content-type", "application/json")];
        self.server.ask("POST", path, &headers, body).await
    }

    /// The audit trail, the oldest first.
    pub(crate) async fn trail(&self) -> Vec<Value> {
        let page = self.get("/api/v1/audit?limit=200").await;
        let mut entries = page["entries"].as_array().unwrap().clone();
        assert!(entries.len() < 200, "it is one page");
        entries.reverse();
        entries
    }

    /// What requests could have changed: whatever is changed by hand leaves a trail.
    pub(crate) async fn seen(&self) -> Vec<Value> {
        let mut seen = self.trail().await;
        for (path, field) in [("jobs", "jobs"), ("messages", "messages")] {
            let page = self.get(&format!("/api/v1/{path}?limit=200")).await;
            seen.extend(page[field].as_array().unwrap().iter().cloned());
        }
        seen
    }

    /// Ends what runs, so that nothing of it is left to the drain.
    pub(crate) async fn ends(self) {
        let cancel = format!("/api/v1/operations/{}/cancel", self.operation);
        self.post(&cancel, b"").await;
        let is_over = async || self.is_over(&self.operation).await;
        eventually_async("the operation to end", LIMIT, is_over).await;
        self.server.ends().await;
    }
}
