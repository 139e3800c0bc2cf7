//! `browse`: how long people wait for a list of messages in a large log, by every filter, with values that are common,
//! rare and absent, on the first page and on deep ones; and what the indexes for that cost a writer.

mod cases;
mod fill;
mod writers;

use std::time::Instant;

use posthaste_store::{MessageFilter, Operations};
use posthaste_testkit::failure::{During, Result};
use serde_json::json;

use self::cases::Case;
use crate::{
    Options, progress,
    report::{Report, Spread, percentile, rounded},
    servers::{Servers, StoreKind},
};

/// What a list may take, in milliseconds.
const LIMIT_MS: f64 = 100.0;
/// Messages of a page: as many as by default, and at most.
const PAGES: [u32; 2] = [50, 200];
/// Calls of one case that count, and those before them.
const CALLS: u32 = 100;
const WARM_UP: u32 = 5;

/// What the calls of one case have found.
struct Measured {
    name: String,
    page: u32,
    calls_ms: Vec<f64>,
    messages: usize,
    /// Pages that say that more follows although they are not full.
    short: u32,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    // A file has its indexes from the beginning.
    let cost = match options.store {
        StoreKind::Postgres => writers::measure(options, servers).await?,
        StoreKind::Sqlite => Vec::new(),
    };
    let log = fill::log(servers, options.store, options.messages).await?;
    let mut all = Vec::new();
    for case in cases::all(&*log.store, log.count).await? {
        for page in PAGES {
            let measured = measure(&*log.store, &case, page).await?;
            progress(format_args!(
                "{}, {page}: p50 {:.1} ms, p99 {:.1} ms, {} messages",
                measured.name,
                percentile(&measured.calls_ms, 0.5),
                percentile(&measured.calls_ms, 0.99),
                measured.messages
            ));
            all.push(measured);
        }
    }
    let mut report = report(log.count, &all);
    tell_cost(&mut report, &cost);
    Ok(report)
}

async fn measure(store: &dyn Operations, case: &Case, limit: u32) -> Result<Measured> {
    let (mut calls_ms, mut messages, mut short) = (Vec::new(), 0, 0);
    for nth in 0..WARM_UP + CALLS {
        let which: MessageFilter = (case.which)(u64::from(nth));
        let since = Instant::now();
        let page = store.messages(&which, limit).await.during("list messages")?;
        let took = since.elapsed();
        if nth >= WARM_UP {
            calls_ms.push(took.as_secs_f64() * 1_000.0);
            messages = page.messages.len();
            short += u32::from(page.next.is_some() && messages < limit as usize);
        }
    }
    calls_ms.sort_by(f64::total_cmp);
    Ok(Measured { name: case.name.clone(), page: limit, calls_ms, messages, short })
}

fn report(count: u64, all: &[Measured]) -> Report {
    let mut report = Report::new("browse");
    let mut cases = Vec::new();
    let mut worst: f64 = 0.0;
    for one in all {
        let [p50, p99] = [0.5, 0.99].map(|part| percentile(&one.calls_ms, part));
        worst = worst.max(p99);
        report.row(&format!("{}, {}: p50", one.name, one.page), "ms", Spread::of([p50]));
        report.row("    p99", "ms", Spread::of([p99]));
        cases.push(json!({
            "case": one.name,
            "page": one.page,
            "p50_ms": rounded(p50, 2),
            "p99_ms": rounded(p99, 2),
            "messages": one.messages,
            "short_pages": one.short,
        }));
    }
    report.set("messages", count);
    report.set("cases", cases);
    report.set("p99_ms_worst", rounded(worst, 2));
    report.set("within_limit", worst <= LIMIT_MS);
    let short: Vec<String> = all
        .iter()
        .filter(|one| one.short > 0)
        .map(|one| format!("{}, {}", one.name, one.page))
        .collect();
    report.note(format!(
        "pages of {PAGES:?} of a log of {count} messages, warm, {CALLS} calls each; the limit is {LIMIT_MS:.0} ms"
    ));
    report.note(format!("with pages that end because enough was looked at: {}", short.join("; ")));
    report
}

fn tell_cost(report: &mut Report, cost: &[writers::Cost]) {
    for one in cost {
        let without = one.rates[0].1.median;
        let mut rates = serde_json::Map::new();
        for (name, rate) in &one.rates {
            report.row(&format!("{}, {name}", one.name), "msg/s", *rate);
            let ratio = rounded(rate.median / without, 3);
            rates.insert(
                (*name).to_owned(),
                json!({ "rate": rounded(rate.median, 0), "ratio": ratio }),
            );
        }
        report.set(one.key, rates);
    }
}
