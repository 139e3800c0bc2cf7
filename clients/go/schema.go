package posthaste

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
)

const (
	defaultSchema = "posthaste"
	// refuseTimeout bounds the wait for a server that does not answer; a refusal takes one round trip.
	refuseTimeout = 10 * time.Second
)

// Two patterns, because regexp has no way to exclude a prefix.
var (
	schemaShape    = regexp.MustCompile(`\A[a-z][a-z0-9_]{0,39}\z`)
	reservedSchema = regexp.MustCompile(`\Apg_`)
)

// schema is the one with the functions that are called; the default one where it is empty.
//
// The one place that decides what happens after a failure: whatever it was, the transaction is
// aborted, so that it cannot commit the data without the message, or an effect without its record.
type schema string

func checkSchema(name string) error {
	if name != "" && (!schemaShape.MatchString(name) || reservedSchema.MatchString(name)) {
		return &InvalidSchemaNameError{Schema: shorten(name)}
	}
	return nil
}

// abort makes the transaction fail, and returns what the caller is told. The server aborts at each
// error of its own.
func (s schema) abort(ctx context.Context, tx Tx, err error) error {
	var invalid *InvalidMessageError
	if errors.As(err, &invalid) {
		if why := s.refuse(ctx, tx, invalid.Error()); !isServers(why) {
			invalid.notAborted(why)
		}
		return invalid
	}
	if !isServers(err) {
		// What comes of it changes nothing for the caller, who rolls back.
		_ = s.refuse(ctx, tx, "call failed")
	}
	return fmt.Errorf("posthaste: %w", err)
}

// refuse returns the error that the function fails with.
func (s schema) refuse(ctx context.Context, tx Tx, reason string) error {
	// Also where the caller's context has ended: the caller may commit with another one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refuseTimeout)
	defer cancel()
	_, err := tx.query(ctx, s.call("refuse($1)"), reason)
	return err
}

// call is a statement with one of the schema's functions.
func (s schema) call(function string) string {
	return "select " + s.name() + "." + function
}

// name was validated; quoted, it may also be a word that PostgreSQL reserves.
func (s schema) name() string {
	if s == "" {
		s = defaultSchema
	}
	return `"` + string(s) + `"`
}

// isServers says whether the server reported the error: drivers agree on this method for its code.
func isServers(err error) bool {
	var server interface{ SQLState() string }
	return errors.As(err, &server)
}
