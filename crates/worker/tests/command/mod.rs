//! Handlers that are programs.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use posthaste_core::JobState;
use posthaste_testkit::eventually_async;
use posthaste_worker::command::CommandHandler;
use tempfile::TempDir;

use crate::support::{LIMIT, run_one};

/// A directory with a program.
fn program(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handler.sh");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (directory, path)
}

async fn failed(text: &str) -> String {
    let (_directory, path) = program(text);
    let detail = run_one(CommandHandler::new(path), LIMIT, JobState::Dead).await;
    detail.job.reason.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn program_gets_the_task_and_its_output_is_the_receipt() {
    let (_directory, path) = program("cat; echo >&2 this is nothing");
    let handler = CommandHandler::new(&path).arguments(["--quiet"]);
    let detail = run_one(handler, LIMIT, JobState::Completed).await;
    let (_, receipt) = &detail.receipts[0];
    assert_eq!(receipt.content_type, "application/json");
    let input: serde_json::Value = serde_json::from_slice(&receipt.body).unwrap();
    assert_eq!(
        (&input["payload"], &input["topic"], &input["attempt"]),
        (&"7".into(), &"t".into(), &1.into())
    );
    assert_eq!(input["job"], detail.job.id.to_string());
    assert_eq!(input["headers"]["posthaste-job"], detail.job.id.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_kept_byte_for_byte_and_none_is_no_receipt() {
    let (_directory, path) = program(r"printf '\377\000x'");
    let detail = run_one(CommandHandler::new(path), LIMIT, JobState::Completed).await;
    assert_eq!(detail.receipts[0].1.body, b"\xff\0x");
    assert_eq!(detail.receipts[0].1.content_type, "application/octet-stream");
    let (_directory, path) = program("exit 0");
    let detail = run_one(CommandHandler::new(path), LIMIT, JobState::Completed).await;
    assert_eq!(detail.receipts, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_and_signals_are_one_clear_error_each() {
    let refused = failed("echo >&2 no such customer; exit 65").await;
    assert!(refused.ends_with("handler.sh rejects it: no such customer"), "{refused}");
    let wrong = failed("echo >&2 oh; exit 3").await;
    assert!(wrong.ends_with("handler.sh ended with exit status: 3: oh"), "{wrong}");
    let killed = failed("kill -9 $$").await;
    assert!(killed.contains("handler.sh ended with signal: 9"), "{killed}");
    let busy = failed("exit 75").await;
    assert!(busy.ends_with("handler.sh is busy"), "{busy}");
    let handler = CommandHandler::new("/no/such/program");
    let missing = run_one(handler, LIMIT, JobState::Dead).await.job.reason.unwrap();
    assert!(missing.starts_with("/no/such/program cannot be started"), "{missing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_output_and_endless_complaints_take_no_memory_and_no_time() {
    let endless = failed("yes | head -c 100000000; echo done").await;
    assert_eq!(endless, "its output is longer than 1048576 bytes");
    let complaints = failed("yes complaint | head -c 100000000 >&2; exit 1").await;
    assert!(complaints.len() < 4096 && complaints.ends_with("complaint"), "{}", complaints.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn program_that_hangs_is_killed_with_its_children() {
    let (directory, path) = program("sleep 600 & echo $! > \"$(dirname \"$0\")/child\"; wait");
    let handler = CommandHandler::new(&path);
    let detail = run_one(handler, Duration::from_millis(500), JobState::Dead).await;
    assert_eq!(detail.job.reason.as_deref(), Some("its handler took longer than 500ms"));
    let child = fs::read_to_string(directory.path().join("child")).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    eventually_async("the child to be gone", LIMIT, async || {
        // Killed, though perhaps nobody has asked for its status.
        fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
}
