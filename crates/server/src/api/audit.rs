//! The audit trail: who did what by hand.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use posthaste_store::{AuditEntry, AuditFilter};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    filters::{Of, cursor},
    shown::as_json,
};
use crate::{app::App, clock, extract::Parameters, problem::Problem};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// Which entries.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Of this actor: a token's name, or whoever used the command line.
    #[param(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    actor: Option<String>,
    /// Of this action, such as `pause`.
    #[param(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    action: Option<String>,
    /// On this subscription.
    #[param(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    subscription: Option<String>,
    /// At this time or later.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// How many at most; 50 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of the audit trail, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Audit {
    /// The page.
    entries: Vec<AuditBody>,
    /// What to send as `cursor` for the next page; null on the last one.
    next: Option<String>,
}

/// What somebody did by hand.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(crate) struct AuditBody {
    /// Its number.
    n: i64,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// Who.
    actor: String,
    /// What.
    action: String,
    /// To which subscription.
    subscription: Option<String>,
    /// The particulars.
    detail: Value,
}

impl AuditBody {
    fn of(entry: &AuditEntry) -> Self {
        Self {
            n: entry.n,
            at: clock::rfc3339(entry.at),
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            subscription: entry.subscription.clone(),
            detail: serde_json::from_str(&entry.detail).unwrap_or_default(),
        }
    }
}

/// Read the audit trail
///
/// Every change by hand, over the API and on the command line, the newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(Listing),
    responses((status = 200, description = "A page", body = Audit)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Parameters(listing): Parameters<Listing>,
) -> Result<Response, Problem> {
    let limit = Of::Query.limit(listing.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let which = AuditFilter {
        actor: Of::Query.name("actor", listing.actor)?,
        action: Of::Query.name("action", listing.action)?,
        subscription: Of::Query.name("subscription", listing.subscription)?,
        since: Of::Query.time("since", listing.since)?,
        until: Of::Query.time("until", listing.until)?,
        before: Of::Query.place('a', listing.cursor, |text| text.parse().ok())?,
    };
    Of::Query.range(which.since, which.until)?;
    let page = app.operations.audit(&which, limit).await?;
    let is_full = page.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = page.last().filter(|_| is_full).map(|last| cursor('a', &last.n.to_string()));
    let entries = page.iter().map(AuditBody::of).collect();
    Ok(as_json(&Audit { entries, next }).into_response())
}
