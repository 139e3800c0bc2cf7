//! Who is let in: names and origins for every request, then the token's scope for each route.
//!
//! Pages of other sites can have a browser send requests to this machine. They cannot give them a `Host` of their own
//! choosing unless they play with DNS, and they cannot leave out `Origin`: so both are checked, tokens or not.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use crate::{
    app::App,
    problem::{Code, Problem},
    proxy::Caller,
    settings::ServerSettings,
    tickets,
    tokens::{Scope, Unknown},
};

/// The names of every machine for itself.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Refuses what came by a wrong name, or from a page of a foreign origin.
pub(crate) async fn check_names(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let caller = request.extensions().get::<Caller>();
    if caller.is_some_and(|caller| caller.is_doubtful) && app.settings.is_open() {
        let detail = "name the proxy in server.trusted_proxies and make tokens: without them everybody who reaches \
                      it may do everything";
        return Problem::new(Code::UntrustedProxy, detail).into_response();
    }
    let host = caller.and_then(|caller| caller.host.as_deref());
    match names(&app.settings, host, request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn names(
    settings: &ServerSettings,
    forwarded: Option<&str>,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<(), Problem> {
    let named = || headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let host = forwarded.or_else(named).or_else(|| uri.authority().map(Authority::as_str));
    let host = host.unwrap_or("");
    let is_known =
        is_own(settings, host) || is_any_name_good(settings) || is_address_good(settings, host);
    if !is_known {
        let detail =
            "call the server as localhost, 127.0.0.1 or [::1], or add the name to server.hosts";
        return Err(Problem::of(Code::UnknownHost, "host", detail));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let is_same = origin.split_once("://").is_some_and(|(_, name)| name == host);
    if is_same || settings.cors_origins.iter().any(|own| own == origin) {
        return Ok(());
    }
    let detail = "add the page's origin to server.cors_origins";
    Err(Problem::of(Code::OriginNotAllowed, "origin", detail))
}

fn is_own(settings: &ServerSettings, host: &str) -> bool {
    let name = without_port(host);
    let is = |own: &str| own.eq_ignore_ascii_case(name);
    OWN_NAMES.into_iter().any(is) || settings.hosts.iter().any(|own| is(own))
}

/// Whether tokens keep those out who make a name of theirs stand for the server's address.
fn is_any_name_good(settings: &ServerSettings) -> bool {
    !settings.is_loopback() && settings.hosts.is_empty() && !settings.tokens.is_empty()
}

/// Whether the server may be called by an address that no name stands for.
fn is_address_good(settings: &ServerSettings, host: &str) -> bool {
    let name = without_port(host);
    let v6 = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address =
        v6.map_or_else(|| name.parse::<Ipv4Addr>().is_ok(), |v6| v6.parse::<Ipv6Addr>().is_ok());
    is_address && !settings.is_loopback() && settings.hosts.is_empty()
}

/// The name of `name:port`; of an IPv6 address with its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// What a route asks of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: for probes, which have no token. Nothing of the log is told.
    Public,
    /// A token with this scope.
    Scope(Scope),
    /// A token with this scope that is not limited to some topics or organisations.
    Whole(Scope),
    /// A token with this scope that is not limited to some topics, or is limited to some organisations as well.
    Entities(Scope),
    /// A token with this scope, or a ticket in the query.
    Ticket(Scope),
}

/// Lets a request through to its route, with who it comes from.
pub(crate) async fn authorize(
    State((app, access)): State<(Arc<App>, Access)>,
    mut request: Request,
    next: Next,
) -> Response {
    let scope = match access {
        Access::Public => return next.run(request).await,
        Access::Scope(scope) | Access::Whole(scope) | Access::Entities(scope) => scope,
        Access::Ticket(scope) => {
            if let Some(ticket) = tickets::of(request.uri()) {
                let ticket = match app.tickets.read(ticket) {
                    Ok(ticket) => ticket,
                    Err(unknown) => return no_ticket(unknown).into_response(),
                };
                request.extensions_mut().insert(ticket.principal.clone());
                request.extensions_mut().insert(ticket);
                return next.run(request).await;
            }
            scope
        }
    };
    let header = request.headers().get(header::AUTHORIZATION);
    let principal = match app.tokens.principal(header.map(header::HeaderValue::as_bytes)) {
        Ok(principal) => principal,
        Err(unknown) => return nobody(unknown).into_response(),
    };
    if !principal.may(scope) {
        let detail = format!("the token {:?} needs the scope {scope}", principal.name);
        return Problem::new(Code::ScopeMissing, detail).into_response();
    }
    let is_beyond = match access {
        Access::Whole(_) => principal.is_limited(),
        Access::Entities(_) => !principal.has_entities(),
        Access::Public | Access::Scope(_) | Access::Ticket(_) => false,
    };
    if is_beyond {
        let topics = principal.topics();
        let detail = format!(
            "the token {:?} is limited to the topics {topics}, and this concerns all of them",
            principal.name
        );
        return Problem::new(Code::TopicNotAllowed, detail).into_response();
    }
    request.extensions_mut().insert(principal);
    next.run(request).await
}

fn nobody(unknown: Unknown) -> Problem {
    match unknown {
        Unknown::Missing => {
            let detail =
                "send a token as `authorization: Bearer …`; `posthaste tokens new` makes one";
            Problem::new(Code::Unauthenticated, detail)
        }
        Unknown::Wrong => {
            let detail =
                "the token stands in no [server.tokens.NAME] of the server's configuration";
            Problem::new(Code::UnknownToken, detail)
        }
        Unknown::Expired => {
            let detail = "make a new token, or set a later server.tokens.NAME.expires";
            Problem::new(Code::ExpiredToken, detail)
        }
    }
}

fn no_ticket(unknown: Unknown) -> Problem {
    let detail =
        "get a new one from POST /api/v1/streams/tickets, and go on with since=LAST_EVENT_ID";
    let code = if unknown == Unknown::Expired { Code::ExpiredToken } else { Code::UnknownToken };
    Problem::of(code, "ticket", detail)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::settings::TokenSettings;

    fn ask(settings: &ServerSettings, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        names(settings, None, &headers, &Uri::from_static("/")).is_ok()
    }

    #[test]
    fn this_machine_is_called_by_its_own_names_alone() {
        let settings =
            ServerSettings { hosts: vec!["post.example".to_owned()], ..ServerSettings::default() };
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8480", "[::1]:80", "post.example:443"] {
            assert!(ask(&settings, host, None), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "::1"]
        {
            assert!(!ask(&settings, host, None), "{host}");
        }
        let tokens = BTreeMap::from([("ci".to_owned(), TokenSettings::default())]);
        let everywhere =
            ServerSettings { listen: "0.0.0.0:80".parse().unwrap(), ..ServerSettings::default() };
        let guarded = ServerSettings { tokens, ..everywhere.clone() };
        assert!(ask(&guarded, "any.example", None));
        // Where anybody may call, a page's own name may stand for the address.
        let anybody = ServerSettings { allow_anonymous: true, ..everywhere };
        for host in ["localhost:80", "192.0.2.7:80", "192.0.2.7", "[2001:db8::1]:80"] {
            assert!(ask(&anybody, host, None), "{host}");
        }
        for host in ["", "evil.example", "192.0.2.7.evil.example", "2001:db8::1", "[::1].evil:80"] {
            assert!(!ask(&anybody, host, None), "{host}");
        }
        let named = ServerSettings { hosts: vec!["post.example".to_owned()], ..anybody };
        assert!(ask(&named, "post.example", None) && !ask(&named, "192.0.2.7", None));
    }

    #[test]
    fn pages_of_foreign_origins_may_not_call() {
        let own = vec!["https://admin.example".to_owned()];
        let settings = ServerSettings { cors_origins: own, ..ServerSettings::default() };
        for origin in ["http://localhost:8480", "https://admin.example"] {
            assert!(ask(&settings, "localhost:8480", Some(origin)), "{origin}");
        }
        for origin in
            ["null", "http://localhost:1", "https://admin.example.evil", "http://evil.example"]
        {
            assert!(!ask(&settings, "localhost:8480", Some(origin)), "{origin}");
        }
    }
}
