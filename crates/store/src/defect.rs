//! Defects that `cargo xtask torture --defects` must find, to show that it finds defects: each is
//! one condition at the place that it breaks.
//!
//! Nothing of it is in a build without the feature `defects`; with it, the variable
//! `TORTURE_DEFECT` names the one that a process has.

/// Whether this process has the defect.
#[cfg(feature = "defects")]
pub fn is(name: &str) -> bool {
    use std::{env, sync::LazyLock};

    static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| env::var("TORTURE_DEFECT").ok());
    CHOSEN.as_deref() == Some(name)
}

/// Whether this process has the defect: it has none.
#[cfg(not(feature = "defects"))]
pub const fn is(_name: &str) -> bool {
    false
}
