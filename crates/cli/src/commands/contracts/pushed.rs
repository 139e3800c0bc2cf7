//! The contracts of the database: pushed, listed, shown, removed.

use posthaste_relay::clock;
use posthaste_store::{ContractText, Operations, StoredContract};
use serde_json::{Value, json};

use super::{
    PushArgs, RemoveArgs, ShowArgs,
    check::Report,
    known::{Known, missing, stored},
    tree::Tree,
};
use crate::{failure::Result, output::Output};

pub(super) async fn push(args: &PushArgs, store: &dyn Operations, out: &mut Output) -> Result {
    let tree = Tree::read(&args.root)?;
    let known = Known::in_database(store).await?;
    let report = Report::of(&tree, args.demand.demand(), Some(&known));
    if !report.is_clean() {
        return report.print(out);
    }
    let entries = tree.contracts.iter();
    let contracts: Vec<ContractText> = entries
        .map(|((topic, version), entry)| ContractText {
            topic: topic.clone(),
            version: *version,
            schema: entry.text.clone(),
        })
        .collect();
    let is_new = store.push_contracts(&contracts, &args.change.request()).await?;
    let dry_run = args.change.is_dry_run();
    for (ContractText { topic, version, .. }, is_new) in contracts.iter().zip(is_new) {
        let what = match (is_new, dry_run) {
            (true, false) => "is pushed",
            (true, true) => "would be pushed",
            (false, _) => "is there already",
        };
        let result =
            json!({ "topic": topic, "version": version, "new": is_new, "dry_run": dry_run });
        out.result(&result, &format!("{topic} version {version} {what}."))?;
    }
    Ok(())
}

pub(super) async fn list(store: &dyn Operations, out: &mut Output) -> Result {
    let contracts = stored(store).await?;
    if !out.is_json() {
        let row = |it: &StoredContract| {
            vec![it.topic.clone(), it.version.to_string(), clock::rfc3339(it.pushed_at)]
        };
        return Ok(out.table(&["TOPIC", "VERSION", "PUSHED"], contracts.iter().map(row).collect())?);
    }
    for contract in contracts {
        out.object(&json!({
            "topic": contract.topic,
            "version": contract.version,
            "pushed_at": clock::rfc3339(contract.pushed_at),
        }))?;
    }
    Ok(())
}

pub(super) async fn show(args: &ShowArgs, store: &dyn Operations, out: &mut Output) -> Result {
    let contracts = stored(store).await?;
    let is_meant = |version| args.number.is_none_or(|number| number == version);
    // Versions ascend.
    let found = contracts.iter().rfind(|it| it.topic == args.topic && is_meant(it.version));
    let Some(contract) = found else {
        return Err(missing(&args.topic, args.number));
    };
    let result = json!({
        "topic": contract.topic,
        "version": contract.version,
        "pushed_at": clock::rfc3339(contract.pushed_at),
        "schema": serde_json::from_str::<Value>(&contract.schema).unwrap_or_default(),
    });
    Ok(out.raw(&result, contract.schema.trim_end())?)
}

pub(super) async fn remove(args: &RemoveArgs, store: &dyn Operations, out: &mut Output) -> Result {
    let RemoveArgs { topic, number, change } = args;
    if !store.remove_contract(topic, *number, &change.request()).await? {
        return Err(missing(topic, Some(*number)));
    }
    let dry_run = change.is_dry_run();
    let would = if dry_run { "would be" } else { "is" };
    let result = json!({ "topic": topic, "version": number, "dry_run": dry_run });
    Ok(out.result(&result, &format!("{topic} version {number} {would} removed."))?)
}
