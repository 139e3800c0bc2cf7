//! Reads Prometheus' text format 0.0.4, strictly: what a scraper would only guess at is an error.
//!
//! See <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::{BTreeMap, BTreeSet};

/// Labels with their values.
pub type Labels = BTreeMap<String, String>;

/// What was scraped.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Each family with its type, in the order of the page.
    pub families: Vec<(String, String)>,
    /// Each sample: name, labels, value.
    pub samples: Vec<(String, Labels, f64)>,
}

impl Scrape {
    /// Reads a page.
    ///
    /// # Panics
    /// At the first line that is not valid, which the message shows.
    #[track_caller]
    pub fn parse(page: &str) -> Self {
        assert!(page.is_empty() || page.ends_with('\n'), "the last line does not end");
        let mut scrape = Self::default();
        let mut helped = None;
        let mut seen = BTreeSet::new();
        for line in page.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                assert!(is_name(name) && !text.is_empty(), "{line:?}");
                helped = Some(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                assert_eq!(helped.take().as_deref(), Some(name), "help stands before the type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line:?}");
                let is_new = scrape.families.iter().all(|(known, _)| known != name);
                assert!(is_new, "a family stands in one place: {line:?}");
                scrape.families.push((name.to_owned(), kind.to_owned()));
            } else {
                let sample = sample(line);
                assert!(seen.insert((sample.0.clone(), sample.1.clone())), "twice: {line:?}");
                scrape.belongs(&sample.0, line);
                scrape.samples.push(sample);
            }
        }
        scrape.check_histograms();
        scrape
    }

    /// The value of one series.
    ///
    /// # Panics
    /// When there is no such series.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {self:#?}"))
    }

    /// The value of one series, if it is there.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let own = |(label, value): &(&str, &str)| ((*label).to_owned(), (*value).to_owned());
        let labels: Labels = labels.iter().map(own).collect();
        let found = self.samples.iter().find(|sample| sample.0 == name && sample.1 == labels);
        found.map(|sample| sample.2)
    }

    /// Every series: name and labels.
    pub fn series(&self) -> BTreeSet<(String, Labels)> {
        self.samples.iter().map(|(name, labels, _)| (name.clone(), labels.clone())).collect()
    }

    fn belongs(&self, name: &str, line: &str) {
        let Some((family, kind)) = self.families.last() else { panic!("no type before {line:?}") };
        let rest = name.strip_prefix(family.as_str());
        let fits = match kind.as_str() {
            "histogram" => matches!(rest, Some("_bucket" | "_sum" | "_count")),
            _ => rest == Some(""),
        };
        assert!(fits, "{line:?} stands below {family} ({kind})");
    }

    /// Buckets ascend, end with `+Inf`, and agree with the count.
    fn check_histograms(&self) {
        for (family, _) in self.families.iter().filter(|(_, kind)| kind == "histogram") {
            let bucket = format!("{family}_bucket");
            let mut last: BTreeMap<Labels, (f64, f64)> = BTreeMap::new();
            for (_, labels, count) in self.samples.iter().filter(|sample| sample.0 == bucket) {
                let mut labels = labels.clone();
                let le = labels.remove("le").unwrap_or_else(|| panic!("{family}: no le"));
                let bound = number(&le).unwrap_or_else(|| panic!("{family}: le {le:?}"));
                let before = last.insert(labels, (bound, *count));
                let ascends = before.is_none_or(|(low, fewer)| low < bound && fewer <= *count);
                assert!(ascends, "{family}: {le} after {before:?}");
            }
            for (labels, (bound, count)) in last {
                let total = format!("{family}_count");
                let total = self.samples.iter().find(|it| it.0 == total && it.1 == labels);
                assert!(bound.is_infinite(), "{family}: no +Inf for {labels:?}");
                assert!(
                    total.is_some_and(|it| it.2.total_cmp(&count).is_eq()),
                    "{family} {labels:?}"
                );
            }
        }
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let at = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line:?}"));
    let (name, rest) = line.split_at(at);
    assert!(is_name(name), "{line:?}");
    let mut labels = Labels::new();
    let value = match rest.strip_prefix('{') {
        None => rest,
        Some(mut rest) => loop {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
            let (value, after) = quoted(after).unwrap_or_else(|| panic!("open quote: {line:?}"));
            assert!(is_name(label) && !label.contains(':'), "{line:?}");
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line:?}");
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => break after.strip_prefix('}').unwrap_or_else(|| panic!("{line:?}")),
            }
        },
    };
    let value = value.strip_prefix(' ').and_then(number).unwrap_or_else(|| panic!("{line:?}"));
    (name.to_owned(), labels, value)
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                letter @ ('"' | '\\') => letter,
                _ => return None,
            }),
            letter => value.push(letter),
        }
    }
    None
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        text if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => text.parse().ok(),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    text.starts_with(is_first) && text.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\"} 3\n\
                        # HELP h H.\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\n\
                        h_bucket{le=\"+Inf\"} 2\nh_sum 1.25\nh_count 2\n";

    #[test]
    fn valid_page_is_read() {
        let scrape = Scrape::parse(GOOD);
        assert_eq!(scrape.find("a_total", &[("x", "q\"\\\n")]), Some(3.0));
        assert_eq!((scrape.find("h_sum", &[]), scrape.find("a_total", &[])), (Some(1.25), None));
        assert_eq!(scrape.families.len(), 2);
    }

    #[test]
    fn faulty_pages_are_refused() {
        let faults = [
            ("a_total{x=\"q\\\"\\\\\\n\"} 3", "a_total{x=\"q} 3"),
            ("a_total{x=\"q\\\"\\\\\\n\"} 3", "a_total three"),
            ("a_total{x=\"q\\\"\\\\\\n\"} 3", "b_total 3"),
            ("a_total{x=\"q\\\"\\\\\\n\"} 3", "a_total 3\na_total 3"),
            ("# HELP a_total A.\n", ""),
            ("h_bucket{le=\"+Inf\"} 2\n", ""),
            ("h_bucket{le=\"0.5\"} 1", "h_bucket{le=\"0.5\"} 9"),
            ("h_count 2\n", "h_count 3\n"),
            ("h_count 2\n", "h_count 2"),
        ];
        for (good, bad) in faults {
            let page = GOOD.replace(good, bad);
            assert_ne!(page, GOOD);
            let read = std::panic::catch_unwind(|| Scrape::parse(&page));
            assert!(read.is_err(), "{bad:?} was taken");
        }
    }
}
