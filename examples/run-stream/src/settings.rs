//! Where the example runs, from the environment: `DATABASE_URL`, `REDIS_URL`, `PAGE_ADDRESS`, `API_ADDRESS`.

use std::net::SocketAddr;

/// Where the example runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `postgres://user@host/db`, or `sqlite:` and the path of a file, which is created.
    pub database: String,
    /// Of the server whose channels get the events as well, if there is one.
    pub redis: Option<String>,
    /// Where the application serves its page.
    pub page: SocketAddr,
    /// Where Posthaste serves its API, streams among it.
    pub api: SocketAddr,
}

/// A variable that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} must be {rule}")]
pub struct InvalidSettings {
    variable: &'static str,
    rule: &'static str,
}

impl Settings {
    /// Reads the settings; `variable` looks one up. Nothing is needed: without any the log is a SQLite file in the
    /// system's directory for such, the page stands on port 8481 and the API on 8480 of this machine.
    ///
    /// # Errors
    /// The first variable that is not what it must be. It is not quoted: it may hold a password.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidSettings> {
        let of = |name: &str| variable(name).filter(|value| !value.is_empty());
        let database = of("DATABASE_URL").unwrap_or_else(|| {
            format!("sqlite:{}", std::env::temp_dir().join("run-stream.db").display())
        });
        let is_file = database.strip_prefix("sqlite:").is_some_and(|path| !path.is_empty());
        if !is_file && !is_one_of(&database, &["postgres://", "postgresql://"]) {
            let rule = "postgres://USER@HOST/DATABASE or sqlite:FILE";
            return Err(InvalidSettings { variable: "DATABASE_URL", rule });
        }
        let redis = of("REDIS_URL");
        if redis.as_ref().is_some_and(|url| !is_one_of(url, &["redis://", "rediss://"])) {
            let rule = "redis://HOST or rediss://HOST";
            return Err(InvalidSettings { variable: "REDIS_URL", rule });
        }
        let address = |name: &'static str, port: u16| {
            let address = of(name).map(|text| text.parse::<SocketAddr>()).transpose();
            let address = address
                .unwrap_or(None)
                .or_else(|| of(name).is_none().then(|| SocketAddr::from(([127, 0, 0, 1], port))));
            let address = address.filter(|address| address.ip().is_loopback());
            let rule = "an address of this machine with a port, such as 127.0.0.1:8481";
            address.ok_or(InvalidSettings { variable: name, rule })
        };
        Ok(Self {
            page: address("PAGE_ADDRESS", 8481)?,
            api: address("API_ADDRESS", 8480)?,
            database,
            redis,
        })
    }
}

fn is_one_of(url: &str, schemes: &[&str]) -> bool {
    schemes.iter().any(|scheme| url.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(find).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_needed() {
        let settings = read(&[("REDIS_URL", "")]).unwrap();
        assert!(settings.database.starts_with("sqlite:") && settings.redis.is_none());
        assert_eq!((settings.page.port(), settings.api.port()), (8481, 8480));
    }

    #[test]
    fn wrong_variable_is_named_with_what_it_must_be_and_without_its_secrets() {
        for (variable, value) in [
            ("DATABASE_URL", "mysql://me:secret@host/db"),
            ("DATABASE_URL", "sqlite:"),
            ("REDIS_URL", "http://me:secret@host"),
            ("PAGE_ADDRESS", "secret"),
            ("API_ADDRESS", "0.0.0.0:80"),
        ] {
            let error = read(&[(variable, value)]).unwrap_err();
            let expected = format!("{variable} must be ");
            assert!(error.starts_with(&expected) && !error.contains("secret"), "{error}");
        }
    }
}
