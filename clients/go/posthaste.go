// Package posthaste enqueues messages into a Posthaste outbox, in the caller's own PostgreSQL
// transaction, through database/sql or pgx.
//
// It needs no module but the standard library: [SQL] and [Pgx] adapt the transaction that the
// caller has. Nothing here opens a connection, begins a transaction or ends one.
package posthaste

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

const (
	defaultSchema   = "posthaste"
	payloadBytesMax = 256 * 1024
	// refuseTimeout bounds the wait for a server that does not answer; a refusal takes one round trip.
	refuseTimeout = 10 * time.Second
)

// Two patterns, because regexp has no way to exclude a prefix.
var (
	schemaShape    = regexp.MustCompile(`\A[a-z][a-z0-9_]{0,39}\z`)
	reservedSchema = regexp.MustCompile(`\Apg_`)
)

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
	if config.Schema != "" && (!schemaShape.MatchString(config.Schema) || reservedSchema.MatchString(config.Schema)) {
		return nil, &InvalidSchemaNameError{Schema: shorten(config.Schema)}
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
		return "", o.abort(ctx, tx, err)
	}
	ids, err := tx.query(ctx, o.call(enqueueArguments), entry.arguments()...)
	if err == nil && len(ids) != 1 {
		err = fmt.Errorf("the SQL function answered %d ids", len(ids))
	}
	if err != nil {
		return "", o.abort(ctx, tx, notEnqueued(err))
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
			return nil, o.abort(ctx, tx, err)
		}
		entries = append(entries, entry)
	}
	ids := make([]string, 0, len(messages))
	for chunk := range chunks(entries) {
		answered, err := o.enqueueChunk(ctx, tx, chunk)
		if err != nil {
			return nil, o.abort(ctx, tx, notEnqueued(err))
		}
		ids = append(ids, answered...)
	}
	return ids, nil
}

// Cancel takes a scheduled message back in the transaction, and returns whether it was still waiting.
// After an error, the driver's own (wrapped), the transaction is aborted.
func (o *Outbox) Cancel(ctx context.Context, tx Tx, id string) (bool, error) {
	answers, err := tx.query(ctx, o.call("cancel($1)::text"), id)
	if err != nil {
		return false, o.abort(ctx, tx, fmt.Errorf("message not cancelled: %w", err))
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
		_, err = tx.query(ctx, `select 'locked' from `+o.name()+
			`.lock_keys(array(select json_array_elements_text($1::json)))`, string(list))
	}
	if err != nil {
		return o.abort(ctx, tx, fmt.Errorf("keys not locked: %w", err))
	}
	return nil
}

func (o *Outbox) enqueueChunk(ctx context.Context, tx Tx, chunk []entry) ([]string, error) {
	array, err := json.Marshal(chunk)
	if err != nil {
		return nil, err
	}
	return tx.query(ctx, o.call("enqueue_many($1)"), string(array))
}

func notEnqueued(err error) error {
	return fmt.Errorf("message not enqueued: %w", err)
}

// abort makes the transaction fail, so that it cannot commit the data without the message, and
// returns what the caller is told. The server aborts at each error of its own.
func (o *Outbox) abort(ctx context.Context, tx Tx, err error) error {
	var invalid *InvalidMessageError
	if errors.As(err, &invalid) {
		if why := o.refuse(ctx, tx, invalid.Error()); !isServers(why) {
			invalid.notAborted(why)
		}
		return invalid
	}
	if !isServers(err) {
		// What comes of it changes nothing for the caller, who rolls back.
		_ = o.refuse(ctx, tx, "call failed")
	}
	return fmt.Errorf("posthaste: %w", err)
}

// refuse returns the error that the function fails with.
func (o *Outbox) refuse(ctx context.Context, tx Tx, reason string) error {
	// Also where the caller's context has ended: the caller may commit with another one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refuseTimeout)
	defer cancel()
	_, err := tx.query(ctx, o.call("refuse($1)"), reason)
	return err
}

// call is a statement with one of the schema's functions.
func (o *Outbox) call(function string) string {
	return "select " + o.name() + "." + function
}

// name is the schema's. It was validated; quoted, it may also be a word that PostgreSQL reserves.
func (o *Outbox) name() string {
	schema := o.config.Schema
	if schema == "" {
		schema = defaultSchema
	}
	return `"` + schema + `"`
}

func (o *Outbox) payloadBytesMax() int {
	if o.config.PayloadBytesMax == 0 {
		return payloadBytesMax
	}
	return o.config.PayloadBytesMax
}

// isServers says whether the server reported the error: drivers agree on this method for its code.
func isServers(err error) bool {
	var server interface{ SQLState() string }
	return errors.As(err, &server)
}
