//! Subscriptions that publish again: their place moved back, or chosen messages beside it.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use posthaste_core::Position;
use posthaste_store::{
    OperationKind, OperationSpec, RewindTo, StoreError, StoreErrorKind, rewind_handed_over,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    dead_letters::request,
    filters::{Conditions, Of},
    operations::{self, OperationBody},
    shown::as_json,
    subscriptions::find,
};
use crate::{
    app::App,
    clock,
    extract::{Json, OfSubscription},
    problem::{Code, Problem},
    tokens::Principal,
};

/// Where to move a subscription's place back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Rewind {
    /// `beginning`, which is the oldest message that the log holds, or a time: what became visible before it stays
    /// published.
    to: String,
    /// Say what would happen, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// What a rewind does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RewoundBody {
    /// The subscription's name.
    name: String,
    /// `rewound`, or `unchanged` where it stands no further than that: a place never moves forward.
    outcome: &'static str,
    /// Nothing was changed.
    dry_run: bool,
    /// How many messages it publishes again; null where there are more than 100,000, or counting them takes seconds.
    messages: Option<u64>,
    /// The position of the first of them; null without any, or where they are not counted.
    #[schema(value_type = Option<i64>)]
    from_position: Option<Position>,
    /// When the oldest of them was written.
    #[schema(format = DateTime)]
    from_time: Option<String>,
    /// The number of the tick behind which it goes on; 0 for the beginning.
    tick: i64,
    /// In a dry run the relay that holds it, which would hand it over first.
    holder: Option<String>,
}

/// Rewind a subscription
///
/// It publishes everything behind that place again. A relay that holds it finishes what it has in hand, hands it over,
/// and takes it up again at the new place. `dry_run` tells what that would be, and disturbs nobody. It stands in the
/// audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/subscriptions/{name}/rewind", tag = "subscriptions",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Its name")), request_body = Rewind,
    responses((status = 200, description = "What it does", body = RewoundBody),
        (status = 409, description = "`subscription-held`: a relay holds it and did not hand it over in time")))]
pub(crate) async fn rewind(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfSubscription(name): OfSubscription,
    Json { value: change, .. }: Json<Rewind>,
) -> Result<Response, Problem> {
    let to = rewind_to(change.to)?;
    find(&app, &name).await?;
    let dry_run = change.dry_run;
    let request = request(&principal, dry_run);
    let patience = app.settings.request_timeout / 2;
    let moved = rewind_handed_over(&*app.operations, &name, to, &request, patience);
    let rewound = match moved.await {
        Ok(rewound) => rewound,
        Err(error) => return Err(refused(&app, &name, error).await),
    };
    let holder = if dry_run { holder(&app, &name).await? } else { None };
    if !dry_run {
        app.outlook.forget();
    }
    let body = RewoundBody {
        name,
        outcome: if rewound.is_moved { "rewound" } else { "unchanged" },
        dry_run,
        messages: rewound.messages,
        from_position: rewound.oldest.map(|(position, _)| position),
        from_time: rewound.oldest.map(|(_, at)| clock::rfc3339(at)),
        tick: rewound.place.base.n,
        holder,
    };
    Ok(as_json(&body).into_response())
}

fn rewind_to(text: String) -> Result<RewindTo, Problem> {
    if text == "beginning" {
        return Ok(RewindTo::Beginning);
    }
    match Of::Body.time("to", Some(text)) {
        Ok(Some(at)) => Ok(RewindTo::Time(at)),
        _ => Err(Of::Body.wrong("to", "beginning, or a time such as 2027-01-01T00:00:00Z")),
    }
}

/// Why a subscription could not be moved: its holder is named, with the way that works.
async fn refused(app: &App, name: &str, error: StoreError) -> Problem {
    if error.kind() != StoreErrorKind::Conflict {
        return error.into();
    }
    match holder(app, name).await {
        Ok(Some(holder)) => {
            let detail = format!(
                "the relay {holder:?} holds it, and did not hand it over in time: try again, or end that relay, whose \
                 process may be a `posthaste serve`, and run `posthaste subscriptions rewind` before it starts anew"
            );
            Problem::new(Code::SubscriptionHeld, detail)
        }
        // It was given up meanwhile, or the database is away.
        Ok(None) => error.into(),
        Err(problem) => problem,
    }
}

async fn holder(app: &App, name: &str) -> Result<Option<String>, Problem> {
    let relays = app.operations.relays().await?;
    let has = |relay: &&posthaste_store::RelayStatus| {
        relay.holds.iter().any(|lease| lease.subscription == name)
    };
    Ok(relays.iter().find(has).map(|relay| relay.holder.clone()))
}

/// Which messages of the log to publish again. Every condition that is given must hold.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(crate) struct Replay {
    /// The subscription that publishes them again; if not given, the one that published them.
    #[schema(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    to: Option<String>,
    /// With these ids.
    #[schema(max_items = 1000, min_items = 1)]
    ids: Option<Vec<Uuid>>,
    /// Of these topics, separated by commas: exact, or as `prefix*`.
    #[schema(pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)(,(\*|[A-Za-z0-9._:/-]+\*?))*$")]
    topic: Option<String>,
    /// Of this key.
    #[schema(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    key: Option<String>,
    /// Written at this time or later.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Written before this time.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Everything that the log holds: has to be said where no condition is given.
    all: bool,
    /// How many a second are due; at once if not given.
    #[schema(minimum = 0.001, maximum = 1_000_000)]
    rate: Option<f64>,
    /// Count them, and change nothing.
    dry_run: bool,
}

/// Publish messages again
///
/// Those that the subscription has published and the log still holds, beside its own stream, by an operation in the
/// background. What it has not published yet comes by itself. With `dry_run` it is answered at once how many they
/// are. It stands in the audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/subscriptions/{name}/replay", tag = "subscriptions",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Its name")), request_body = Replay,
    responses((status = 202, description = "The operation", body = OperationBody),
        (status = 200, description = "What it would concern", body = operations::OperationPreview),
        (status = 429, description = "`too-many-operations`: wait until one is over")))]
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfSubscription(name): OfSubscription,
    Json { value: asked, .. }: Json<Replay>,
) -> Result<Response, Problem> {
    let (dry_run, rate) = (asked.dry_run, Of::Body.rate(asked.rate)?);
    let target = Of::Body.name("to", asked.to)?.unwrap_or_else(|| name.clone());
    let conditions = Conditions {
        ids: asked.ids,
        topic: asked.topic,
        key: asked.key,
        since: asked.since,
        until: asked.until,
        ..Conditions::default()
    };
    let mut filter = conditions.of_change(asked.all)?;
    find(&app, &name).await?;
    find(&app, &target).await.map_err(|problem| match problem.code() {
        Code::NoSubscription => Of::Body.wrong("to", "a subscription that there is"),
        _ => problem,
    })?;
    filter.which.subscription = Some(name);
    let kind = OperationKind::ReplayMessages;
    let spec = OperationSpec { kind, filter, rate, target: Some(target) };
    operations::begin(&app, &principal, &spec, dry_run).await
}

#[cfg(test)]
mod tests {
    use posthaste_core::Timestamp;

    use super::*;

    #[test]
    fn place_to_go_back_to_is_the_beginning_or_a_time() {
        assert_eq!(rewind_to("beginning".to_owned()).unwrap(), RewindTo::Beginning);
        let at = RewindTo::Time(Timestamp(1_000_000));
        assert_eq!(rewind_to("1970-01-01T00:00:01Z".to_owned()).unwrap(), at);
        for wrong in ["", "now", "Beginning", "\0"] {
            assert!(rewind_to(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
