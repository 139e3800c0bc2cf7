//! Which column means what: the flags, and the layout for what they leave open. Pure.

use clap::ValueEnum;
use posthaste_core::message;
use posthaste_store::{ImportSource, TableColumn, TopicTemplate};

use super::ImportArgs;
use crate::failure::{Failure, Result};

/// Names of columns where the command line says nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// `id`, `topic`, `payload`, and `key`, `headers`, `correlation_id`, `published_at` if there
    Plain,
    /// `id`, `aggregatetype`, `aggregateid`, `type`, `payload`, as Debezium's event router has them
    Debezium,
}

/// Where Debezium's router sends an event (`route.topic.replacement`).
const DEBEZIUM_TOPIC: &str = "outbox.event.{aggregatetype}";

/// The headers that Debezium's consumers know: the event's id, and the name that its documentation
/// gives the type's (`type:header:eventType`).
const DEBEZIUM_HEADERS: [(&str, &str); 2] = [("id", "id"), ("eventType", "type")];

/// The whole mapping for a table with these columns.
pub(super) fn source(args: &ImportArgs, columns: &[TableColumn]) -> Result<ImportSource> {
    let find = |name: &str| columns.iter().find(|column| column.name == name);
    let is_plain = args.layout == Layout::Plain;
    // What was asked for must be there, which the store checks; what was not may be.
    let or_plain = |given: &Option<String>, name: &str| {
        given.clone().or_else(|| (is_plain && find(name).is_some()).then(|| name.to_owned()))
    };
    let id = args.id.clone().unwrap_or_else(|| "id".to_owned());
    let payload = args.payload.clone().unwrap_or_else(|| "payload".to_owned());
    let published = or_plain(&args.published_at, "published_at");
    if published.is_none() && args.from.is_none() && args.conditions.is_empty() && !args.all {
        return Err(Failure::usage(
            "nothing says which rows are published, so every row would be copied; name the column \
             with --published-at, choose rows with --from or --where, or say --all",
        ));
    }
    let key = match args.layout {
        Layout::Plain => or_plain(&args.key, "key"),
        Layout::Debezium => Some(args.key.clone().unwrap_or_else(|| "aggregateid".to_owned())),
    };
    let is_bytes = find(&payload).is_some_and(|column| column.type_name == "bytea");
    let json = (!is_plain && !is_bytes).then(|| message::JSON.to_owned());
    Ok(ImportSource {
        table: args.table.clone(),
        topic: args.topic.clone().map_or_else(|| topic(args.layout), Ok)?,
        key,
        payload,
        content_type: args.content_type.clone().or(json),
        headers: or_plain(&args.headers, "headers"),
        header_columns: header_columns(args, columns),
        correlation_id: or_plain(&args.correlation_id, "correlation_id"),
        published,
        marks_published: args.mark_published,
        order_by: order(args, &id, find(&id))?,
        id,
        from: args.from.clone(),
        conditions: args.conditions.clone(),
        forgets: args.forget,
        actor: args.change.request().actor,
    })
}

fn topic(layout: Layout) -> Result<TopicTemplate> {
    let template = match layout {
        Layout::Plain => "{topic}",
        Layout::Debezium => DEBEZIUM_TOPIC,
    };
    template.parse().map_err(|error| Failure::usage(format!("{error}")))
}

fn header_columns(args: &ImportArgs, columns: &[TableColumn]) -> Vec<(String, String)> {
    let mut headers = args.header_columns.clone();
    if args.layout == Layout::Debezium {
        for (name, column) in DEBEZIUM_HEADERS {
            let is_there = columns.iter().any(|it| it.name == column);
            if is_there && headers.iter().all(|(given, _)| given != name) {
                headers.push((name.to_owned(), column.to_owned()));
            }
        }
    }
    headers
}

/// Numbers are handed out in an order; of other ids nobody knows.
fn order(args: &ImportArgs, id: &str, column: Option<&TableColumn>) -> Result<Vec<String>> {
    if !args.order_by.is_empty() {
        return Ok(args.order_by.clone());
    }
    let Some(column) = column else { return Ok(vec![id.to_owned()]) };
    match column.type_name.as_str() {
        "bigint" | "integer" | "smallint" | "numeric" => Ok(vec![id.to_owned()]),
        other => Err(Failure::usage(format!(
            "the ids {id:?} are of type {other}, which says nothing of their order; name a column \
             with --order-by, as created_at, or the id itself if it rises with time"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ImportArgs,
    }

    fn resolve(line: &str, columns: &[(&str, &str)]) -> Result<ImportSource, String> {
        let words = ["import"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let column = |(name, type_name): &(&str, &str)| TableColumn {
            name: (*name).to_owned(),
            type_name: (*type_name).to_owned(),
        };
        let columns: Vec<TableColumn> = columns.iter().map(column).collect();
        source(&line.args, &columns).map_err(|failure| failure.human())
    }

    const PLAIN: &[(&str, &str)] = &[("id", "bigint"), ("key", "text"), ("published_at", "x")];
    const DEBEZIUM: &[(&str, &str)] = &[("id", "uuid"), ("type", "text"), ("payload", "jsonb")];

    #[test]
    fn plain_layout_uses_the_columns_that_are_there() {
        let source = resolve("--table outbox", PLAIN).unwrap();
        assert_eq!((source.id.as_str(), source.topic.source()), ("id", "{topic}"));
        assert_eq!(source.key.as_deref(), Some("key"));
        assert_eq!((&source.headers, &source.correlation_id), (&None, &None));
        assert_eq!(source.published.as_deref(), Some("published_at"));
        assert_eq!(source.order_by, ["id"]);
        let chosen = resolve("--table o --key k --header a=b --order-by at", PLAIN).unwrap();
        assert_eq!((chosen.key.as_deref(), chosen.order_by), (Some("k"), vec!["at".to_owned()]));
        assert_eq!(chosen.header_columns, [("a".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn debezium_layout_routes_as_its_router_does() {
        let source = resolve("--table o --layout debezium --all --order-by at", DEBEZIUM).unwrap();
        assert_eq!(source.topic.source(), "outbox.event.{aggregatetype}");
        assert_eq!(source.key.as_deref(), Some("aggregateid"));
        assert_eq!(source.content_type.as_deref(), Some("application/json"));
        let pair = |name: &str, column: &str| (name.to_owned(), column.to_owned());
        assert_eq!(source.header_columns, [pair("id", "id"), pair("eventType", "type")]);
        let other = "--table o --layout debezium --all --order-by at --header id=n";
        let source = resolve(other, DEBEZIUM).unwrap();
        assert_eq!(source.header_columns, [pair("id", "n"), pair("eventType", "type")]);
    }

    #[test]
    fn what_nobody_can_know_is_asked_for() {
        let all = resolve("--table o --order-by id", DEBEZIUM).unwrap_err();
        assert!(all.contains("--published-at"), "{all}");
        let order = resolve("--table o --all", DEBEZIUM).unwrap_err();
        assert!(order.contains("uuid") && order.contains("--order-by"), "{order}");
        assert!(resolve("--table o --where status=new", PLAIN).is_ok());
    }
}
