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
    // Go would take an earlier success for one of these vectors, which lie outside its module.
    let go = go.args(["test", "-mod=readonly", "-count=1", "."]);
    let go = go.current_dir(libraries().join("go"));
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

/// A consumer's example in `language`, which must be the only one.
fn consumer(library: &str, language: &str) -> String {
    let found = examples(library, language);
    let [example] = found.as_slice() else { panic!("{found:?} is not one example") };
    example.clone()
}

#[tokio::test]
async fn r28_clients_readme_examples_take_effect_once_as_they_stand() {
    let id = "01920000-0000-7000-8000-000000000001";
    let time = "2026-01-02T03:04:05.000006Z";
    let node = format!(
        "import pg from 'pg';\n{}\nconst client = new pg.Client(process.env.DATABASE_URL);\n\
         await client.connect();\n\
         const fields = ['id', '{id}', 'topic', 't', 'content_type', 'a/b', 'enqueued_at', '{time}',\n\
         'payload', Buffer.from('p')];\n\
         await handle(client, fields);\nawait handle(client, fields);\nawait client.end();\n",
        consumer("node", "javascript")
    );
    let python = format!(
        "import os\nimport psycopg\n{}\n\
         fields = {{b'id': b'{id}', b'topic': b't', b'content_type': b'a/b',\n\
         b'enqueued_at': b'{time}', b'payload': b'p'}}\n\
         with psycopg.connect(os.environ['DATABASE_URL'], autocommit=True) as connection:\n    \
         handle(connection, fields)\n    handle(connection, fields)\n",
        consumer("python", "py")
    );
    let go = format!(
        "package main\n\nimport (\n\"context\"\n\"database/sql\"\n\"log\"\n\"os\"\n\n\
         _ \"github.com/jackc/pgx/v5/stdlib\"\n\n\"example.com/posthaste\"\n)\n\n\
         {}\nfunc main() {{\nctx := context.Background()\n\
         db, err := sql.Open(\"pgx\", os.Getenv(\"DATABASE_URL\"))\n\
         if err != nil {{\nlog.Fatal(err)\n}}\n\
         inbox, err := posthaste.NewInbox(\"invoices\", posthaste.Config{{}})\n\
         if err != nil {{\nlog.Fatal(err)\n}}\n\
         values := map[string]any{{\"id\": \"{id}\", \"topic\": \"t\", \"content_type\": \"a/b\", \
         \"enqueued_at\": \"{time}\", \"payload\": \"p\"}}\n\
         for range 2 {{\nif err := handle(ctx, db, inbox, values); err != nil {{\nlog.Fatal(err)\n}}\n}}\n}}\n",
        consumer("go", "golang")
    );
    let module = libraries().join("go/contract");
    let mut with_node = Command::new("node");
    with_node.arg(install::node_program("consumer.js", &node));
    let mut with_python = python_command();
    with_python.args(["-c", &python]);
    let with_go = Command::new(install::go_program(&module, "readme_consumer", &go));
    for mut program in [with_node, with_python, with_go] {
        let database = support::postgres().await;
        install::run(program.env("DATABASE_URL", database.url()), "what the README says");
        assert_eq!(orders(&database).await, 1, "{program:?}");
    }
}
