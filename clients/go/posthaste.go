// Package posthaste enqueues messages into a Posthaste outbox, and tells first deliveries from repeats,
// in the caller's own PostgreSQL transaction, through database/sql or pgx.
//
// It needs no module but the standard library: [SQL] and [Pgx] adapt the transaction that the
// caller has. Nothing here opens a connection, begins a transaction or ends one.
package posthaste

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

const payloadBytesMax = 256 * 1024

// Outbox enqueues messages in the caller's own transaction. The zero value is ready to use, with the
// defaults of [Config]. It is safe for use by several goroutines; one per process is enough.
type Outbox struct {
	config Config
}

// Config says where an [Outbox] enqueues and what it accepts. Zero fields are defaults.
type Config struct {
	// Schema that `posthaste migrate` made. Default: posthaste.
	Schema string
	// PayloadBytesMax as set when the schema was made. Default: 262144.
	PayloadBytesMax int
}

// New makes an Outbox. The error is an [*InvalidSchemaNameError].
func New(config Config) (*Outbox, error) {
	if err := checkSchema(config.Schema); err != nil {
		return nil, err
	}
	return &Outbox{config: config}, nil
}

// Enqueue writes one message in the transaction, and returns its id; or, if its token was used before,
// the first message's. One round trip.
//
// After an error, an [*InvalidMessageError] or the driver's own (wrapped), the transaction is
// aborted: roll back, to a savepoint or altogether.
func (o *Outbox) Enqueue(ctx context.Context, tx Tx, message Message) (string, error) {
	entry, err := prepare(message, o.payloadBytesMax(), alone)
	if err != nil {
		return "", o.schema().abort(ctx, tx, err)
	}
	ids, err := tx.query(ctx, o.schema().call(enqueueArguments), entry.arguments()...)
	if err == nil && len(ids) != 1 {
		err = fmt.Errorf("the SQL function answered %d ids", len(ids))
	}
	if err != nil {
		return "", o.schema().abort(ctx, tx, notEnqueued(err))
	}
	return ids[0], nil
}

// EnqueueMany writes messages in their order, and returns their ids in the same order. All are
// checked before the first is written; up to 1,000 share a round trip. Errors are those of
// [Outbox.Enqueue].
func (o *Outbox) EnqueueMany(ctx context.Context, tx Tx, messages []Message) ([]string, error) {
	entries := make([]entry, 0, len(messages))
	for index, message := range messages {
		entry, err := prepare(message, o.payloadBytesMax(), index)
		if err != nil {
			return nil, o.schema().abort(ctx, tx, err)
		}
		entries = append(entries, entry)
	}
	ids := make([]string, 0, len(messages))
	for chunk := range chunks(entries) {
		answered, err := o.enqueueChunk(ctx, tx, chunk)
		if err != nil {
			return nil, o.schema().abort(ctx, tx, notEnqueued(err))
		}
		ids = append(ids, answered...)
	}
	return ids, nil
}

// Cancel takes a scheduled message back in the transaction, and returns whether it was still waiting.
// After an error, the driver's own (wrapped), the transaction is aborted.
func (o *Outbox) Cancel(ctx context.Context, tx Tx, id string) (bool, error) {
	answers, err := tx.query(ctx, o.schema().call("cancel($1)::text"), id)
	if err != nil {
		return false, o.schema().abort(ctx, tx, fmt.Errorf("message not cancelled: %w", err))
	}
	return slices.Equal(answers, []string{"true"}), nil
}

// LockKeys locks ordering keys until the transaction ends, as strict topics ask before an enqueue. At
// most 1,000, better in one call. Errors are those of [Outbox.Cancel].
func (o *Outbox) LockKeys(ctx context.Context, tx Tx, keys []string) error {
	// As JSON: drivers of database/sql do not agree on how an array is sent. Without keys it is an empty
	// array, where nil would be null.
	list, err := json.Marshal(append([]string{}, keys...))
	if err == nil {
		_, err = tx.query(ctx, `select 'locked' from `+o.schema().name()+
			`.lock_keys(array(select json_array_elements_text($1::json)))`, string(list))
	}
	if err != nil {
		return o.schema().abort(ctx, tx, fmt.Errorf("keys not locked: %w", err))
	}
	return nil
}

func (o *Outbox) enqueueChunk(ctx context.Context, tx Tx, chunk []entry) ([]string, error) {
	array, err := json.Marshal(chunk)
	if err != nil {
		return nil, err
	}
	return tx.query(ctx, o.schema().call("enqueue_many($1)"), string(array))
}

func notEnqueued(err error) error {
	return fmt.Errorf("message not enqueued: %w", err)
}

func (o *Outbox) schema() schema {
	return schema(o.config.Schema)
}

func (o *Outbox) payloadBytesMax() int {
	if o.config.PayloadBytesMax == 0 {
		return payloadBytesMax
	}
	return o.config.PayloadBytesMax
}
