//! Which values are secrets, and what stands in their place wherever a value is shown.

/// What stands where a secret was.
pub(crate) const MASK: &str = "•••";

/// Whether the key's name says that its value is a secret. Types say it too, with `writeOnly` in
/// their schema; names are the second line of defence.
pub(super) fn is_secret_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    !key.ends_with("_file")
        && (["password", "passwd", "secret", "api_key", "credential"]
            .iter()
            .any(|word| key.contains(word))
            // `token_retention` and `tokens` hold none.
            || key == "token"
            || key.ends_with("_token"))
}

/// `text` with the passwords of a URL or a connection string masked. Cuts rather too much than
/// too little: a password may hold an unescaped `@` or `/`.
pub(crate) fn masked_url(text: &str) -> String {
    let mut masked = text.to_owned();
    if let Some(start) = text.find("://").map(|at| at + 3)
        && let Some(end) = text.rfind('@').filter(|end| *end > start)
        && let Some(colon) = text[start..end].find(':')
    {
        masked.replace_range(start + colon + 1..end, MASK);
    }
    mask_parameters(&masked)
}

/// Masks the values of `…password=…`, in a query or in a connection string.
fn mask_parameters(text: &str) -> String {
    const NAME: &str = "password=";
    let mut masked = String::new();
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find(NAME) {
        let value = at + NAME.len();
        masked.push_str(&rest[..value]);
        masked.push_str(MASK);
        let end = rest[value..].find(['&', ' ']).map_or(rest.len(), |end| value + end);
        rest = &rest[end..];
    }
    masked + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_cut_out_of_urls() {
        for (text, shown) in [
            ("postgres://u:hunter2@h:5432/d", "postgres://u:•••@h:5432/d"),
            ("postgres://u:hun@ter/2@h/d", "postgres://u:•••@h/d"),
            ("redis://:hunter2@h", "redis://:•••@h"),
            (
                "postgres://h/d?user=a&password=hunter2&x=1",
                "postgres://h/d?user=a&password=•••&x=1",
            ),
            ("host=h Password=hunter2 user=u", "host=h Password=••• user=u"),
            ("postgres://u@h:5432/d", "postgres://u@h:5432/d"),
            ("sqlite:a.db", "sqlite:a.db"),
        ] {
            assert_eq!(masked_url(text), shown);
        }
    }

    #[test]
    fn names_of_secrets_are_known_and_paths_are_not_secrets() {
        for key in ["password", "sasl_password", "client_secret", "auth_token", "token", "api_key"]
        {
            assert!(is_secret_name(key), "{key}");
        }
        for key in [
            "password_file",
            "url",
            "stream",
            "key_file",
            "token_retention",
            "streams_per_token_max",
            "tokens",
        ] {
            assert!(!is_secret_name(key), "{key}");
        }
    }
}
