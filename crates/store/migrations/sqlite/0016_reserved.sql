-- An operator asks the relay that holds a subscription to hand it over, and all relays to leave it until then, in
-- microseconds.
alter table @schema@_subscription add column reserved_until integer;
