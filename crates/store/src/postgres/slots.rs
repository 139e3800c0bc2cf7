//! The rings' geometry, and what this process knows about the log's slots.
//!
//! A slot is *sealed* when the sequence has passed its end and then every transaction has ended
//! that might still hold one of its positions. A sealed slot whose highest xid lies below every
//! transaction in progress at a tick holds nothing that the tick's window could contain, so that
//! old slots cost a window query nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use posthaste_core::{Position, Ring, Snapshot};
use tokio::sync::OnceCell;

use super::{PostgresStore, connect::Loan};
use crate::Result;

/// The geometry of the three rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) log: Ring,
    pub(super) tick: Ring,
    pub(super) progress: Ring,
}

/// What is known of the slots. Written by the sweep, read by window queries.
#[derive(Debug, Default)]
pub(super) struct Slots {
    geometry: OnceCell<Geometry>,
    /// By stretch (lap and slot), so that knowledge of an earlier lap never answers for a later.
    known: Mutex<HashMap<i64, Knowledge>>,
}

/// What is known of the newest stretch in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// The sequence has passed its end; sealed once a snapshot has `xmin` above this xid.
    Passed { xid: u64 },
    /// No transaction can add to it; `None` when it holds nothing.
    Sealed { max_xid: Option<u64> },
}

impl Slots {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<i64, Knowledge>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PostgresStore {
    /// The geometry, read once: it never changes after the schema was created.
    pub(super) async fn geometry(&self, loan: &Loan) -> Result<Geometry> {
        let read = || async {
            let sql = format!(
                "select log_slots, log_slot_size, tick_slots, tick_slot_size, progress_slots, \
                 progress_slot_size from {}.meta",
                self.schema()
            );
            let client = loan.client();
            let row = loan
                .bounded("read the rings' geometry", async {
                    client.query_typed(&sql, &[]).await?.into_iter().next().map_or_else(
                        || Ok(None),
                        |row| {
                            let ring = |at| -> Result<Ring, tokio_postgres::Error> {
                                Ok(Ring {
                                    slots: row.try_get(at)?,
                                    slot_size: row.try_get(at + 1)?,
                                })
                            };
                            Ok(Some(Geometry { log: ring(0)?, tick: ring(2)?, progress: ring(4)? }))
                        },
                    )
                })
                .await?;
            row.ok_or_else(|| {
                let doing = format!("read the rings' geometry: {}.meta is empty", self.schema());
                crate::StoreError::new(crate::StoreErrorKind::MissingSchema, doing)
            })
        };
        self.shared.slots.geometry.get_or_try_init(read).await.copied()
    }

    /// The log's slots that may hold a message not visible in `base`, given the highest position
    /// handed out. `last` must have been read after the snapshot that closes the window.
    pub(super) fn live_slots(&self, ring: Ring, base: &Snapshot, last: Position) -> Vec<i64> {
        let mut known = self.shared.slots.lock();
        // Only stretches that the sequence has passed are known; it goes back in a restored log, of
        // which none of it is true.
        if known.keys().any(|stretch| *stretch >= ring.stretch_of(last)) {
            known.clear();
        }
        let is_live = |slot: &i64| {
            let Some(stretch) = ring.newest_stretch_in(*slot, last) else { return false };
            match known.get(&stretch) {
                Some(Knowledge::Sealed { max_xid }) => {
                    max_xid.is_some_and(|max_xid| max_xid >= base.xmin())
                }
                Some(Knowledge::Passed { .. }) | None => true,
            }
        };
        (0..ring.slots).filter(is_live).collect()
    }
}
