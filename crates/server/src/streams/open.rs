//! How many streams are open: of all callers, and of one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::telemetry::StreamMeter;

/// The streams that are open, by caller.
#[derive(Debug)]
pub(super) struct Open {
    by_caller: Mutex<BTreeMap<Arc<str>, usize>>,
    max: usize,
    per_caller_max: usize,
    meter: Arc<StreamMeter>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    open: Arc<Open>,
    caller: Arc<str>,
}

impl Open {
    pub(super) fn new(max: usize, per_caller_max: usize, meter: Arc<StreamMeter>) -> Self {
        Self { by_caller: Mutex::default(), max, per_caller_max, meter }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
        self.by_caller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, if there may be.
    pub(super) fn enter(self: &Arc<Self>, caller: &Arc<str>) -> Option<Entry> {
        let mut by_caller = self.lock();
        let all: usize = by_caller.values().sum();
        let own = by_caller.entry(Arc::clone(caller)).or_default();
        if all >= self.max || *own >= self.per_caller_max {
            return None;
        }
        *own += 1;
        self.meter.open.add(1);
        drop(by_caller);
        Some(Entry { open: Arc::clone(self), caller: Arc::clone(caller) })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut by_caller = self.open.lock();
        if let Some(own) = by_caller.get_mut(&self.caller) {
            *own -= 1;
            self.open.meter.open.sub(1);
            if *own == 0 {
                by_caller.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_have_their_limit_and_all_of_them_another() {
        let open = Arc::new(Open::new(3, 2, Arc::default()));
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        let first = open.enter(&a).unwrap();
        let second = open.enter(&a).unwrap();
        assert!(open.enter(&a).is_none(), "its own limit");
        let third = open.enter(&b).unwrap();
        assert!(open.enter(&b).is_none(), "everybody's");
        drop(first);
        drop(open.enter(&b).unwrap());
        assert_eq!(open.meter.open.get(), 2);
        drop((second, third));
        assert_eq!(open.meter.open.get(), 0);
        assert!(open.lock().is_empty());
    }
}
