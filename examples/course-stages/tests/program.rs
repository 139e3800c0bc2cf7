//! The program as people start it, and what its README says of the machine.

use std::process::{Command, Output};

use course_stages::database::machine;
use posthaste_testkit::{Postgres, Redis};

fn run(variables: &[(&str, &str)]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_course-stages"));
    for variable in ["DATABASE_URL", "REDIS_URL", "QUEUE", "RUST_LOG"] {
        program.env_remove(variable);
    }
    program.envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn one_command_plays_every_scenario() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("courses.db").display());
    let output = run(&[("DATABASE_URL", &url)]);
    let (out, error) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{error}");
    assert_eq!(out.matches("stage_5_complete").count(), 7, "{out}");
    assert_eq!(out.matches("  document: ").count(), 4, "{out}");
    assert!(out.contains("jobs done: 13, failed attempts: 0"), "{out}");
    assert!(out.contains("layer 3, the worker:   13 jobs seen, 0 machines started, 0 warnings"));
    assert_eq!(error, "");
}

#[tokio::test]
async fn settings_put_it_on_servers() {
    let redis = Redis::start();
    for queue in ["stream", "bullmq"] {
        let database = Postgres::shared().database().await;
        let url = redis.url();
        let output =
            run(&[("DATABASE_URL", database.url()), ("REDIS_URL", &url), ("QUEUE", queue)]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{queue}: {error}");
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(out.matches("stage_5_complete").count(), 7, "{queue}: {out}");
        assert!(out.contains("jobs done: 13, failed attempts: 0"), "{queue}: {out}");
        // The listener may have been stopped before the last of them.
        assert!(out.contains("jobs seen, 0 machines started, 0 warnings"), "{queue}: {out}");
    }
}

#[test]
fn bad_setting_is_one_clear_error() {
    let cases = [
        (("QUEUE", "kafka"), "error: QUEUE must be stream or bullmq, not \"kafka\""),
        (("DATABASE_URL", "mysql://u:secret@h/d"), "error: DATABASE_URL must be postgres://"),
        (
            ("DATABASE_URL", "sqlite:/nowhere/at/all.db"),
            "error: Posthaste's schema in the database",
        ),
        (("REDIS_URL", "redis://127.0.0.1:1"), "error: REDIS_URL: connecting to Redis at"),
    ];
    for (variable, said) in cases {
        let output = run(&[variable]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with(said) && error.lines().count() == 1, "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn readme_draws_the_machine_as_it_is() {
    let readme = include_str!("../README.md");
    let drawn = machine().unwrap().mermaid();
    assert!(readme.contains(drawn.trim_end()), "put this into README.md:\n{drawn}");
}
