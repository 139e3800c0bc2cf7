//! What a proxy in front of the server says: under which path and name it was called, and by whom.
//!
//! Such headers are believed of trusted proxies alone: anybody can write them.

use std::net::{IpAddr, SocketAddr};

use axum::{
    Router,
    http::{HeaderMap, HeaderName, Request, Uri, uri::PathAndQuery},
    response::Response,
};
use hyper::{body::Incoming, service::Service};
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use ipnet::IpNet;

use crate::settings::ServerSettings;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is known of the way that requests come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    trusted: Vec<IpNet>,
    base_path: String,
}

/// Who sent a request, and by which name the server was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Beyond all trusted proxies.
    pub(crate) address: IpAddr,
    /// As the nearest trusted proxy was called.
    pub(crate) host: Option<String>,
    /// A proxy that is not trusted stands between.
    pub(crate) is_doubtful: bool,
}

impl Ways {
    pub(crate) fn of(settings: &ServerSettings) -> Self {
        let trusted = settings.trusted_proxies.iter().filter_map(|text| network(text)).collect();
        Self { trusted, base_path: settings.base_path.clone() }
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> Caller {
        let peer = peer.to_canonical();
        if !self.is_trusted(peer) {
            let is_named = |name: &HeaderName| headers.contains_key(name);
            let is_doubtful = [FORWARDED, FORWARDED_FOR, FORWARDED_HOST].iter().any(is_named);
            return Caller { address: peer, host: None, is_doubtful };
        }
        let mut address = peer;
        // Each proxy adds whom it heard, so that what a client wrote itself stands to the left of the truth.
        for hop in hops(headers, &FORWARDED_FOR).into_iter().rev() {
            let Some(hop) = address_of(hop) else { break };
            address = hop;
            if !self.is_trusted(hop) {
                break;
            }
        }
        let host = hops(headers, &FORWARDED_HOST).pop().map(str::to_owned);
        Caller { address, host, is_doubtful: false }
    }

    /// Paths are served with the base path before them, and without: proxies may cut it off.
    fn shorten(&self, uri: &mut Uri) {
        if let Some(short) = cut(&self.base_path, uri) {
            *uri = short;
        }
    }
}

/// The path behind `base`, where that is what it begins with.
fn cut(base: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(base).filter(|_| !base.is_empty())?;
    let rest = match rest.as_bytes().first() {
        None => "/".to_owned(),
        Some(b'/') => rest.to_owned(),
        Some(b'?') => format!("/{rest}"),
        Some(_) => return None,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Uri::from_parts(parts).ok()
}

/// The values of a header that is a list, the first first.
fn hops<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|hop| !hop.is_empty()).collect()
}

fn address_of(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let with_port = || hop.parse::<SocketAddr>().map(|address| address.ip());
    bare.parse::<IpAddr>().or_else(|_| with_port()).ok().map(|address| address.to_canonical())
}

/// An address, or a network such as `10.0.0.0/8`.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The routes, as one connection has them.
#[derive(Clone)]
pub(crate) struct Routes {
    pub(crate) ways: Ways,
    pub(crate) peer: IpAddr,
    pub(crate) router: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Routes {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = TowerToHyperServiceFuture<Router, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.ways.shorten(request.uri_mut());
        let caller = self.ways.caller(self.peer, request.headers());
        request.extensions_mut().insert(caller);
        self.router.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(trusted: &[&str]) -> Ways {
        let trusted_proxies = trusted.iter().map(ToString::to_string).collect();
        Ways::of(&ServerSettings { trusted_proxies, ..ServerSettings::default() })
    }

    fn caller(trusted: &[&str], peer: &str, headers: &[(&HeaderName, &str)]) -> Caller {
        let headers = headers.iter().map(|(name, value)| ((*name).clone(), value.parse().unwrap()));
        ways(trusted).caller(peer.parse().unwrap(), &headers.collect())
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let said = [(&FORWARDED_FOR, "9.9.9.9"), (&FORWARDED_HOST, "post.example")];
        let stranger = caller(&["10.0.0.0/8"], "192.168.0.1", &said);
        let expected =
            Caller { address: "192.168.0.1".parse().unwrap(), host: None, is_doubtful: true };
        assert_eq!(stranger, expected);
        for peer in ["10.1.2.3", "::ffff:10.1.2.3"] {
            let known = caller(&["10.0.0.0/8"], peer, &said);
            assert_eq!(known.address, "9.9.9.9".parse::<IpAddr>().unwrap());
            assert_eq!(known.host.as_deref(), Some("post.example"));
            assert!(!known.is_doubtful);
        }
        assert!(!caller(&[], "10.0.0.1", &[]).is_doubtful);
    }

    #[test]
    fn caller_stands_left_of_the_last_trusted_proxy() {
        for (said, expected) in [
            ("1.1.1.1, 9.9.9.9", "9.9.9.9"),
            ("1.1.1.1, 9.9.9.9, 10.0.0.7", "9.9.9.9"),
            ("9.9.9.9:4711,10.0.0.7", "9.9.9.9"),
            ("[2001:db8::1]:80, 10.0.0.7", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("unknown, 10.0.0.7", "10.0.0.7"),
            ("10.0.0.8", "10.0.0.8"),
            ("", "10.0.0.1"),
        ] {
            let caller = caller(&["10.0.0.0/8"], "10.0.0.1", &[(&FORWARDED_FOR, said)]);
            assert_eq!(caller.address, expected.parse::<IpAddr>().unwrap(), "{said}");
        }
    }

    #[test]
    fn base_path_is_cut_off_whole_segments() {
        let short = |path: &str| cut("/post", &path.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(short("/post/livez?a=/post").as_deref(), Some("/livez?a=/post"));
        assert_eq!(short("/post").as_deref(), Some("/"));
        assert_eq!(short("/post?x=1").as_deref(), Some("/?x=1"));
        for other in ["/postal/livez", "/livez", "/", "/a/post/livez"] {
            assert_eq!(short(other), None, "{other}");
        }
        assert_eq!(cut("", &"/livez".parse().unwrap()), None);
    }
}
