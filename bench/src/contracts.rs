//! `contracts`: what it takes to check a small message, and the drain of a log whose one topic is
//! contracted beside the same log without a contract.
//!
//! Both logs hold the same messages, orders that name their version, and both relays the same
//! settings; the one database has the contract.

use std::{hint::black_box, time::Instant};

use posthaste_core::{
    Contracts, Message,
    contract::{Checked, Contract},
};
use posthaste_store::{ContractText, Request};
use posthaste_testkit::failure::{During, Failure, Result};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::json;

use crate::{
    Options,
    duel::{Duel, Side},
    messages::{STREAM, TOPIC},
    progress,
    relay::EXACTLY_ONCE,
    report::{Report, Spread},
    servers::{Log, Servers, settle_tables},
};

const MESSAGES: u64 = 500_000;
/// Checks of one round: some tenths of a second.
const CHECKS: u32 = 200_000;
const JOBS: &str = "jobs.submitted";
const JOB: &str = include_str!("../../examples/benchmark-jobs/contracts/jobs.submitted/v1.json");
const JOB_SAMPLE: &[u8] = include_bytes!(
    "../../examples/benchmark-jobs/contracts/jobs.submitted/v1.samples/valid-two-regions.json"
);
/// An order of five properties.
const ORDER: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["order", "customer", "state", "total", "lines"],
  "properties": {
    "order": { "type": "integer", "minimum": 1 },
    "customer": { "type": "string", "minLength": 1 },
    "state": { "enum": ["open", "paid", "shipped"] },
    "total": { "type": "number", "minimum": 0 },
    "lines": { "type": "array", "items": { "type": "string" } }
  }
}"#;
/// Any number; the same one every time.
const SEED: u64 = 42;

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let count = options.messages.unwrap_or(MESSAGES);
    let (contracted, free) = (servers.log().await?, servers.log().await?);
    progress(format_args!("writing {count} messages twice"));
    fill(&contracted, count).await?;
    fill(&free, count).await?;
    let contract = ContractText { topic: TOPIC.to_owned(), version: 1, schema: ORDER.to_owned() };
    let request = Request { actor: "bench".to_owned(), is_dry_run: false, is_forced: false };
    contracted.store.push_contracts(&[contract], &request).await.during("push the contract")?;
    let measured = Side {
        key: "contracted",
        name: "contracted topic",
        servers,
        log: &contracted,
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        expected: count,
    };
    let beside = Side { key: "free", name: "topic without a contract", log: &free, ..measured };
    let mut report = Duel { name: "contracts", measured, beside, count }.run(options).await?;
    check(options, &mut report)?;
    Ok(report)
}

/// How long a check takes, parsing included.
fn check(options: &Options, report: &mut Report) -> Result<()> {
    let compiled = |topic: &str, schema: &str| {
        let schema = serde_json::from_str(schema).during("read a schema")?;
        Contract::new(topic, 1, schema).during("compile a schema")
    };
    let contracts = Contracts::new([compiled(JOBS, JOB)?, compiled(TOPIC, ORDER)?]);
    let contracts = contracts.during("know the contracts")?;
    let order = order(&mut SmallRng::seed_from_u64(SEED));
    // As programs write it, without the white space of the file.
    let job: serde_json::Value = serde_json::from_slice(JOB_SAMPLE).during("read the job")?;
    let job = job.to_string().into_bytes();
    for (key, name, topic, payload) in [
        ("check_job_us", "check of a job spec", JOBS, &job[..]),
        ("check_order_us", "check of an order", TOPIC, order.payload()),
    ] {
        let mut micros = Vec::new();
        for round in 0..=options.runs {
            let began = Instant::now();
            for _ in 0..CHECKS {
                let checked = contracts.check(black_box(topic), Some("1"), black_box(payload));
                if black_box(checked) != Ok(Checked::Valid { version: 1 }) {
                    return Err(Failure::new(format!("the {name} failed")));
                }
            }
            if round > 0 {
                micros.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(CHECKS));
            }
        }
        report.figure(key, name, "µs", Spread::of(micros));
        report.set(&format!("{}_bytes", key.trim_end_matches("_us")), payload.len());
    }
    Ok(())
}

async fn fill(log: &Log, count: u64) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut written = 0;
    while written < count {
        let part = (count - written).min(1_000);
        let part: Vec<Message> = (0..part).map(|_| order(&mut random)).collect();
        log.store.append(&part).await.during("fill the log")?;
        written += part.len() as u64;
    }
    settle_tables(&log.url).await
}

/// An order of about 200 bytes.
fn order(random: &mut SmallRng) -> Message {
    let number: u32 = random.random_range(1..1_000_000);
    let lines: Vec<String> = (0..6).map(|nth| format!("article-{:08}", number + nth)).collect();
    Message::new(TOPIC).key(format!("key-{:05}", number % 10_000)).contract(1).json(&json!({
        "order": number,
        "customer": format!("customer-{:06}", number / 7),
        "state": "paid",
        "total": f64::from(number) / 100.0,
        "lines": lines,
    }))
}
