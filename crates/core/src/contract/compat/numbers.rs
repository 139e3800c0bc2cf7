//! Limits of numbers, compared exactly or not at all.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Whole numbers up to here are the same number as a float (2^53).
const EXACT_MAX: i128 = 1 << 53;

/// How two numbers compare; `None` where a float is too coarse to tell.
pub(super) fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => exact_float(a)?.partial_cmp(&exact_float(b)?),
    }
}

/// The number, if it was written as a whole one.
pub(super) fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn exact_float(number: &Number) -> Option<f64> {
    match whole(number) {
        Some(whole) if whole.abs() > EXACT_MAX => None,
        _ => number.as_f64(),
    }
}

/// A count such as that of `minLength`, which may be written as `2.0`.
pub(super) fn count(value: &Value) -> Option<u64> {
    let number = value.as_number()?;
    let float = || number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n));
    number.as_u64().or_else(|| float().map(|n| n as u64))
}

/// One end of a range.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) limit: Number,
    pub(super) is_exclusive: bool,
}

impl Bound {
    /// The bound for whole numbers only: one that excludes its limit begins at the next.
    pub(super) fn of_whole(self, step: i64) -> Self {
        let next = || self.limit.as_i64()?.checked_add(step);
        match self.is_exclusive.then(next).flatten() {
            Some(limit) => Self { limit: limit.into(), is_exclusive: false },
            None => self,
        }
    }

    /// Whether values within this bound keep `other`. `closer` is the order that a limit of a
    /// smaller range has to a wider one's: greater for lower bounds.
    pub(super) fn keeps(&self, other: &Self, closer: Ordering) -> bool {
        match compare(&self.limit, &other.limit) {
            Some(Ordering::Equal) => self.is_exclusive || !other.is_exclusive,
            Some(order) => order == closer,
            None => self.limit == other.limit && (self.is_exclusive || !other.is_exclusive),
        }
    }
}

/// Whether every multiple of `a` is one of `b`.
pub(super) fn divides(b: &Value, a: &Value) -> bool {
    let Some((a, b)) = a.as_number().zip(b.as_number()) else { return false };
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => b != 0 && a % b == 0,
        _ => a == b,
    }
}
