-- An operator asks the relay that holds a subscription to hand it over, and all relays to leave it until then.
alter table @schema@.lease add column reserved_until timestamptz;
