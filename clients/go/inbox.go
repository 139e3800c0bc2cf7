package posthaste

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const consumerBytesMax = 255

// Inbox tells first deliveries of messages from repeats, for one consumer. It is safe for use by several
// goroutines; one per process is enough.
//
// A consumer is a name: whoever must not repeat each other's effects shares one.
type Inbox struct {
	consumer string
	config   Config
}

// NewInbox makes the inbox of a consumer, whose name has 1 to 255 bytes. Of the configuration only the
// schema counts. The error is an [*InvalidConsumerError] or an [*InvalidSchemaNameError].
func NewInbox(consumer string, config Config) (*Inbox, error) {
	isName := utf8.ValidString(consumer) && !strings.ContainsFunc(consumer, isControl)
	if !isName || consumer == "" || len(consumer) > consumerBytesMax {
		return nil, &InvalidConsumerError{Consumer: shorten(consumer)}
	}
	if err := checkSchema(config.Schema); err != nil {
		return nil, err
	}
	return &Inbox{consumer: consumer, config: config}, nil
}

// Handle records in the transaction that the message is handled, and returns whether it is the first
// time: its effect then belongs into this transaction. While another transaction is handling it, this
// waits for the outcome. One round trip.
//
// After an error, the driver's own (wrapped), the transaction is aborted: roll back, and have the
// message delivered again.
func (i *Inbox) Handle(ctx context.Context, tx Tx, id string) (bool, error) {
	answers, err := tx.query(ctx, i.schema().call("handle_once($1, $2)::text"), i.consumer, id)
	if err != nil {
		return false, i.schema().abort(ctx, tx, notHandled(err))
	}
	return slices.Equal(answers, []string{"true"}), nil
}

// HandleMany records that up to 10,000 messages are handled, and returns those that are new, each once,
// in their order. One round trip; make one call in a transaction. Errors are those of [Inbox.Handle].
func (i *Inbox) HandleMany(ctx context.Context, tx Tx, ids []string) ([]string, error) {
	// As JSON: drivers of database/sql do not agree on how an array is sent. Without ids it is an empty
	// array, where nil would be null.
	list, err := json.Marshal(append([]string{}, ids...))
	var fresh []string
	if err == nil {
		call := i.schema().call("handle_many($1, array(select json_array_elements_text($2::json)::uuid))")
		fresh, err = tx.query(ctx, call, i.consumer, string(list))
	}
	if err != nil {
		return nil, i.schema().abort(ctx, tx, notHandled(err))
	}
	return fresh, nil
}

func (i *Inbox) schema() schema {
	return schema(i.config.Schema)
}

func notHandled(err error) error {
	return fmt.Errorf("message not handled: %w", err)
}
