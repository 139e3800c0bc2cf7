//! What a benchmark answers: a table for people and one JSON object for machines.
//!
//! Figures of several runs become their median and spread; a single run shows nothing.

use std::fmt::Write as _;

use posthaste_testkit::failure::Result;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::machine::Machine;

/// One figure over all runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Median absolute deviation from the median.
    pub(crate) mad: f64,
}

impl Spread {
    /// Over `values`; all zero without any.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        let median = median(&mut values);
        let (min, max) = (values.first(), values.last());
        let (min, max) = (min.copied().unwrap_or(0.0), max.copied().unwrap_or(0.0));
        let mut deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        Self { median, min, max, mad: self::median(&mut deviations) }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// The value below which `part` (0 to 1) of the sorted values lie, by nearest rank.
pub(crate) fn percentile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

/// Rounds for people and for JSON: more digits than the spread allows would pretend.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// What a benchmark found.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    table: Vec<[String; 6]>,
    notes: Vec<String>,
    figures: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(bench: &'static str) -> Self {
        let mut figures = Map::new();
        figures.insert("bench".to_owned(), bench.into());
        let header = ["", "unit", "median", "min", "max", "MAD"].map(str::to_owned);
        Self { bench, table: vec![header], notes: Vec::new(), figures }
    }

    /// A row of the table.
    pub(crate) fn row(&mut self, name: &str, unit: &str, spread: Spread) {
        let Spread { median, min, max, mad } = spread;
        let [median, min, max, mad] = [median, min, max, mad].map(shown);
        self.table.push([name.to_owned(), unit.to_owned(), median, min, max, mad]);
    }

    /// A row of the table, and its median in the JSON object as `key`.
    pub(crate) fn figure(&mut self, key: &str, name: &str, unit: &str, spread: Spread) {
        self.row(name, unit, spread);
        self.set(key, rounded(spread.median, 3));
    }

    /// A line below the table: what a figure means.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// A member of the JSON object.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.figures.insert(key.to_owned(), value.into());
    }

    /// Adds the machine that the figures come from, the last member of the object.
    pub(crate) fn on(&mut self, machine: &Machine) -> Result<()> {
        self.set("machine", machine.to_json()?);
        Ok(())
    }

    /// The JSON object.
    pub(crate) fn json(&self) -> Value {
        Value::Object(self.figures.clone())
    }

    /// The table with its notes.
    pub(crate) fn text(&self) -> String {
        let width = |column: usize| {
            self.table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut text = format!("\n{}\n", self.bench);
        for row in &self.table {
            let _ = write!(text, "  {:<1$}  {2:<3$}", row[0], widths[0], row[1], widths[1]);
            for (cell, width) in row[2..].iter().zip(&widths[2..]) {
                let _ = write!(text, "  {cell:>width$}");
            }
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }
}

/// Whole numbers with separators above a hundred, else three digits that count.
fn shown(value: f64) -> String {
    if value.abs() < 10.0 {
        return format!("{value:.3}");
    }
    if value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Spread, percentile, shown};

    #[test]
    fn one_wild_run_moves_the_maximum_and_not_the_median() {
        let spread = Spread::of([5.0, 1_000.0, 3.0, 4.0, 6.0]);
        assert_eq!(spread, Spread { median: 5.0, min: 3.0, max: 1_000.0, mad: 1.0 });
        assert!(Spread::of([1.0, 2.0]).median > 1.4);
        assert!(Spread::of([]).max.abs() < f64::EPSILON);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        let at = |part| percentile(&sorted, part) as u32;
        assert_eq!([at(0.5), at(0.99), at(1.0), at(0.0)], [50, 99, 100, 1]);
    }

    #[test]
    fn thousands_are_separated() {
        let texts = [0.5, 12.34, 999.0, 1_234_567.0, -123_456.0].map(shown);
        assert_eq!(texts, ["0.500", "12.3", "999", "1,234,567", "-123,456"]);
    }
}
