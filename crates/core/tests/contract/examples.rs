//! The contracts of the example: what system A's jobs and receipts must look like.

use std::path::{Path, PathBuf};

use posthaste_core::contract::{Breach, Checked, Compatibility, Contract, Contracts};

/// Contracts stand in `<topic>/v<version>.json`, samples beside them.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/benchmark-jobs/contracts")
}

pub(super) fn contract(topic: &str, version: u32) -> Contract {
    let file = root().join(topic).join(format!("v{version}.json"));
    let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    Contract::new(topic, version, serde_json::from_slice(&text).unwrap()).unwrap()
}

fn contracts() -> Contracts {
    Contracts::new([contract("jobs.submitted", 1), contract("jobs.receipt", 1)]).unwrap()
}

/// Samples with their names, sorted.
fn samples(topic: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(root().join(topic).join("v1.samples")).unwrap();
    let mut samples: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    samples.sort();
    samples
}

fn breach(topic: &str, payload: &[u8]) -> Option<Breach> {
    contracts().check(topic, Some("1"), payload).err()
}

#[test]
fn r31_every_sample_is_what_its_name_says() {
    for topic in ["jobs.submitted", "jobs.receipt"] {
        let samples = samples(topic);
        let count = |prefix| samples.iter().filter(|(name, _)| name.starts_with(prefix)).count();
        assert!(count("valid-") >= 2 && count("invalid-") >= 3, "{topic}");
        for (name, payload) in &samples {
            let found = breach(topic, payload);
            assert_eq!(found.is_none(), name.starts_with("valid-"), "{topic} {name}: {found:?}");
        }
    }
}

#[test]
fn r29_job_without_its_id_or_with_too_few_regions_is_refused_by_name() {
    for (sample, said) in [
        ("invalid-id-instead-of-jobspec-id.json", "payload: lacks \"jobspec_id\""),
        ("invalid-min-regions.json", "/constraints/min_regions: less than the minimum of 1"),
        ("invalid-question-objects.json", "/questions/0: not of type string"),
        ("invalid-job-in-an-envelope.json", "payload: lacks \"jobspec_id\""),
    ] {
        let samples = samples("jobs.submitted");
        let (_, payload) = samples.iter().find(|(name, _)| name == sample).unwrap();
        let told = breach("jobs.submitted", payload).unwrap().to_string();
        let expected = format!("topic \"jobs.submitted\" does not keep contract version 1: {said}");
        assert_eq!(told, expected);
    }
}

#[test]
fn r29_both_shapes_of_a_receipt_are_valid_and_nothing_else_is() {
    let response = r#"{"question_id":"q","question":"?","response":"!"}"#;
    let direct = format!(r#"{{"responses":[{response}]}}"#);
    let nested = format!(r#"{{"data":{direct}}}"#);
    let receipt = |data: &str| format!(r#"{{"output":{{"data":{data}}}}}"#).into_bytes();
    let checked = |data: &str| contracts().check("jobs.receipt", Some("1"), &receipt(data));
    for data in [&direct, &nested] {
        assert_eq!(checked(data), Ok(Checked::Valid { version: 1 }));
    }
    let deeper = format!(r#"{{"data":{nested}}}"#);
    for data in [deeper.as_str(), "{}", "null", "[]", r#"{"text_output":"x"}"#] {
        assert_eq!(checked(data).unwrap_err().code(), "violation", "{data}");
    }
    for missing in ["question_id", "question", "response"] {
        let data = direct.replace(&format!("\"{missing}\""), "\"other\"");
        let told = checked(&data).unwrap_err().to_string();
        assert!(told.contains("/output/data: valid under none or several"), "{told}");
    }
    let told = checked("{}").unwrap_err().to_string();
    assert!(told.ends_with("number 1 lacks \"responses\", number 2 lacks \"data\""), "{told}");
}

#[test]
fn r31_contract_is_compatible_with_itself() {
    for topic in ["jobs.submitted", "jobs.receipt"] {
        let (old, new) = (contract(topic, 1), contract(topic, 1));
        assert_eq!(Compatibility::of(&old, &new), Compatibility::Full);
    }
}
