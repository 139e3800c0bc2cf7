//! The libraries' own tests of what is pure, and the examples of their READMEs.

use std::{fs, process::Command};

use posthaste::{Message, MessageId};
use serde_json::json;

use super::{libraries, log, orders, row, session::python_command};
use crate::{interop::install, support};

#[test]
fn clients_pass_the_checks_in_their_own_language() {
    let node = libraries().join("node");
    install::run(Command::new("node").arg("--test").current_dir(node), "Node.js 18 or later");
    let mut python = python_command();
    python.args(["-m", "unittest", "discover", "-s", "tests"]);
    install::run(python.current_dir(libraries().join("python")), "Python 3.10 or later");
    let mut go = Command::new("go");
    let go = go.args(["test", "-mod=readonly", "."]).current_dir(libraries().join("go"));
    install::run(go, "Go 1.25 or later");
}

/// The code blocks in `language` of a library's README.
fn examples(library: &str, language: &str) -> Vec<String> {
    let readme = fs::read_to_string(libraries().join(library).join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The body of a Go function in a program.
fn go_program(imports: &str, connection: &str, connect: &str, body: &str) -> String {
    format!(
        "package main\n\nimport (\n\"context\"\n\"log\"\n\"os\"\n{imports}\n\"example.com/posthaste\"\n)\n\n\
         var outbox posthaste.Outbox\n\
         var order = map[string]int{{\"order\": 17}}\n\n\
         func main() {{\nctx := context.Background()\n{connect}\nif err != nil {{\nlog.Fatal(err)\n}}\n\
         if err := run(ctx, connection); err != nil {{\nlog.Fatal(err)\n}}\n}}\n\n\
         func run(ctx context.Context, {connection}) error {{\n{body}}}\n"
    )
}

#[tokio::test]
async fn r5_clients_readme_examples_enqueue_as_they_stand() {
    let node = examples("node", "js").join("\n");
    let python = examples("python", "python").join("\n");
    let go = examples("go", "go");
    let [sql, pgx] = go.as_slice() else { panic!("{go:?} are not two examples") };
    let module = libraries().join("go/contract");
    let sql = go_program(
        "\"database/sql\"\n_ \"github.com/jackc/pgx/v5/stdlib\"",
        "db *sql.DB",
        "connection, err := sql.Open(\"pgx\", os.Getenv(\"DATABASE_URL\"))",
        sql,
    );
    let pgx = go_program(
        "\"github.com/jackc/pgx/v5\"",
        "conn *pgx.Conn",
        "connection, err := pgx.Connect(ctx, os.Getenv(\"DATABASE_URL\"))",
        pgx,
    );
    let mut with_node = Command::new("node");
    with_node.arg(install::node_program("readme.js", &node));
    let mut with_python = python_command();
    with_python.args(["-c", &python]);
    let programs = [
        with_node,
        with_python,
        Command::new(install::go_program(&module, "readme_sql", &sql)),
        Command::new(install::go_program(&module, "readme_pgx", &pgx)),
    ];
    let message = Message::new("orders.created").key("customer-3").json(&json!({ "order": 17 }));
    for mut program in programs {
        let database = support::postgres().await;
        install::run(program.env("DATABASE_URL", database.url()), "what the README says");
        let log = log(&database).await;
        let id = log.first().map_or(MessageId::nil(), |row| row.id);
        assert_eq!(log, [row(id, &message)], "{program:?}");
        assert_eq!(orders(&database).await, 1, "{program:?}");
    }
}
