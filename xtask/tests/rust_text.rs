//! Splits Rust source into code and string literals, without comments: a check on one must not trip
//! over the other.
//!
//! Follows the lexical grammar (<https://doc.rust-lang.org/reference/tokens.html>) as far as is
//! needed to find where literals and comments end.

/// Text on a line, numbered from 1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// A file's code, one piece for each line, and its string literals, one piece each.
#[derive(Debug, Default)]
pub(crate) struct RustText {
    pub(crate) code: Vec<Piece>,
    pub(crate) literals: Vec<Piece>,
}

/// Splits `source`.
pub(crate) fn split(source: &str) -> RustText {
    let mut code = String::new();
    let mut literals = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (length, kind) = next(rest, code.chars().next_back());
        let (token, after) = rest.split_at(length.max(first.len_utf8()));
        let newlines = "\n".repeat(token.matches('\n').count());
        match kind {
            Kind::Code => code.push_str(token),
            Kind::Comment => code.push_str(&newlines),
            Kind::Literal => {
                let line = code.matches('\n').count() + 1;
                literals.push(Piece { line, text: token.to_owned() });
                code.push_str("\"\"");
                code.push_str(&newlines);
            }
        }
        rest = after;
    }
    let piece = |(index, text): (usize, &str)| Piece { line: index + 1, text: text.to_owned() };
    RustText { code: code.lines().enumerate().map(piece).collect(), literals }
}

enum Kind {
    Code,
    Comment,
    Literal,
}

/// The length and kind of what `rest` begins with; `before` is the code's last character.
fn next(rest: &str, before: Option<char>) -> (usize, Kind) {
    let begins_word = !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if rest.starts_with("//") {
        (rest.find('\n').unwrap_or(rest.len()), Kind::Comment)
    } else if rest.starts_with("/*") {
        (rest.find("*/").map_or(rest.len(), |end| end + 2), Kind::Comment)
    } else if rest.starts_with('"') {
        (quoted(rest), Kind::Literal)
    } else if begins_word && let Some(length) = raw(rest) {
        (length, Kind::Literal)
    } else if rest.starts_with('\'') {
        (character(rest), Kind::Code)
    } else {
        (0, Kind::Code)
    }
}

fn quoted(rest: &str) -> usize {
    let mut is_escaped = false;
    for (index, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of `r"…"`, `br#"…"#` and the like.
fn raw(rest: &str) -> Option<usize> {
    let after =
        rest.strip_prefix('b').or(rest.strip_prefix('c')).unwrap_or(rest).strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |found| start + found + end.len()))
}

/// The length of a character literal, or of the quote alone where it begins a lifetime.
fn character(rest: &str) -> usize {
    let mut letters = rest.char_indices().skip(1);
    match letters.next() {
        // The escaped character itself may be a quote.
        Some((_, '\\')) => rest[3..].find('\'').map_or(rest.len(), |end| end + 4),
        Some((_, _)) => match letters.next() {
            Some((index, '\'')) => index + 1,
            _ => 1,
        },
        None => 1,
    }
}

#[test]
fn code_literals_and_comments_are_told_apart() {
    let source = "let a = \"x // no \\\" y\"; // \"comment\"\nlet b = r#\"raw \"q\" z\"#; /* \"c\"\n*/ \
                  let c = '\"'; fn d<'a>() {}";
    let text = split(source);
    let literals: Vec<(usize, &str)> =
        text.literals.iter().map(|piece| (piece.line, piece.text.as_str())).collect();
    assert_eq!(literals, [(1, "\"x // no \\\" y\""), (2, "r#\"raw \"q\" z\"#")]);
    let code: Vec<&str> = text.code.iter().map(|piece| piece.text.trim()).collect();
    assert_eq!(code, ["let a = \"\";", "let b = \"\";", "let c = '\"'; fn d<'a>() {}"]);
}
