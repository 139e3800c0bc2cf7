//! A wall clock that a test sets.

use std::process::Command;

use posthaste_testkit::Clock;

/// Seconds since 1970 as a program on `clock` takes them, and as they are.
fn told(clock: &Clock) -> (i64, i64) {
    let output = Command::new("date").arg("+%s").envs(clock.environment()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let right = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    (told, right.cast_signed())
}

#[test]
fn clock_is_right_until_it_is_set_and_wrong_by_as_much_as_it_was_set() {
    let clock = Clock::new();
    for seconds in [0, -86_400, 3_600, 0] {
        clock.set(seconds);
        let (told, right) = told(&clock);
        assert!((told - right - seconds).abs() <= 1, "{told}, not {right} and {seconds}");
    }
}
