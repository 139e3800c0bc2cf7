// Package protocol does what the contract suite asks for (crates/posthaste/tests/clients): one JSON
// command a line, one JSON answer a line.
package protocol

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"example.com/posthaste"
)

// Session is a connection of one driver.
type Session interface {
	Begin(ctx context.Context) error
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
	Execute(ctx context.Context, statement string) error
	// Tx is the transaction that was begun.
	Tx() posthaste.Tx
}

type command struct {
	Do              string
	SQL             string
	Schema          string
	PayloadBytesMax int `json:"payload_bytes_max"`
	Message         message
	Messages        []message
	ID              string
	Keys            []string
	Consumer        string
	IDs             []string
}

type message struct {
	Topic         string
	JSON          json.RawMessage
	Text          *string
	Bytes         []byte
	ContentType   string `json:"content_type"`
	Key           string
	Headers       map[string]string
	CorrelationID string `json:"correlation_id"`
	ID            string
	Traceparent   string
	Tracestate    string
	Token         string
	// DeliverAt is in microseconds since 1970.
	DeliverAt *int64 `json:"deliver_at_micros"`
}

type answer struct {
	IDs   []string `json:"ids,omitempty"`
	Found *bool    `json:"found,omitempty"`
	Error *failure `json:"error,omitempty"`
}

type failure struct {
	Kind     string `json:"kind"`
	Text     string `json:"text"`
	Field    string `json:"field"`
	Limit    string `json:"limit"`
	Value    string `json:"value"`
	Index    *int   `json:"index"`
	Aborted  bool   `json:"aborted"`
	SQLState string `json:"sqlstate"`
}

// Serve answers commands until there are no more.
func Serve(ctx context.Context, session Session) error {
	outbox := &posthaste.Outbox{}
	inbox, err := posthaste.NewInbox("mail", posthaste.Config{})
	if err != nil {
		return err
	}
	lines, answers := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var command command
		if err := json.Unmarshal(line, &command); err != nil {
			return err
		}
		answered, err := do(ctx, session, &outbox, &inbox, command)
		if err != nil {
			failure, isKnown := toFailure(err)
			if !isKnown {
				return err
			}
			answered = answer{Error: &failure}
		}
		if err := answers.Encode(answered); err != nil {
			return err
		}
	}
}

func do(
	ctx context.Context, session Session, outbox **posthaste.Outbox, inbox **posthaste.Inbox, command command,
) (answer, error) {
	switch command.Do {
	case "outbox":
		config := posthaste.Config{Schema: command.Schema, PayloadBytesMax: command.PayloadBytesMax}
		made, err := posthaste.New(config)
		*outbox = made
		return answer{}, err
	case "begin":
		return answer{}, session.Begin(ctx)
	case "commit":
		return answer{}, session.Commit(ctx)
	case "rollback":
		return answer{}, session.Rollback(ctx)
	case "execute":
		return answer{}, session.Execute(ctx, command.SQL)
	case "enqueue":
		id, err := (*outbox).Enqueue(ctx, session.Tx(), toMessage(command.Message))
		return answer{IDs: []string{id}}, err
	case "enqueue_with_cancelled_context":
		// What only a language with contexts can be asked.
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		id, err := (*outbox).Enqueue(cancelled, session.Tx(), toMessage(command.Message))
		if errors.Is(err, context.Canceled) {
			return answer{Error: &failure{Kind: "cancelled"}}, nil
		}
		return answer{IDs: []string{id}}, err
	case "enqueue_many":
		messages := make([]posthaste.Message, 0, len(command.Messages))
		for _, message := range command.Messages {
			messages = append(messages, toMessage(message))
		}
		ids, err := (*outbox).EnqueueMany(ctx, session.Tx(), messages)
		return answer{IDs: ids}, err
	case "cancel":
		found, err := (*outbox).Cancel(ctx, session.Tx(), command.ID)
		return answer{Found: &found}, err
	case "lock_keys":
		return answer{}, (*outbox).LockKeys(ctx, session.Tx(), command.Keys)
	case "inbox":
		made, err := posthaste.NewInbox(command.Consumer, posthaste.Config{Schema: command.Schema})
		*inbox = made
		return answer{}, err
	case "handle":
		found, err := (*inbox).Handle(ctx, session.Tx(), command.ID)
		return answer{Found: &found}, err
	case "handle_many":
		ids, err := (*inbox).HandleMany(ctx, session.Tx(), command.IDs)
		return answer{IDs: ids}, err
	default:
		return answer{}, fmt.Errorf("unknown command %q", command.Do)
	}
}

func toMessage(m message) posthaste.Message {
	made := posthaste.Message{
		Topic: m.Topic, ContentType: m.ContentType, Key: m.Key, Headers: m.Headers,
		CorrelationID: m.CorrelationID, ID: m.ID, Traceparent: m.Traceparent, Tracestate: m.Tracestate,
		Token: m.Token,
	}
	if m.DeliverAt != nil {
		made.DeliverAt = time.UnixMicro(*m.DeliverAt)
	}
	switch {
	case m.JSON != nil:
		made.Payload = posthaste.JSON(m.JSON)
	case m.Text != nil:
		made.Payload = posthaste.Text(*m.Text)
	case m.Bytes != nil:
		made.Payload = posthaste.Bytes(m.Bytes)
	}
	return made
}

func toFailure(err error) (failure, bool) {
	var invalid *posthaste.InvalidMessageError
	var consumer *posthaste.InvalidConsumerError
	var name *posthaste.InvalidSchemaNameError
	var server interface{ SQLState() string }
	switch {
	case errors.As(err, &invalid):
		failure := failure{
			Kind: "invalid_message", Text: err.Error(), Field: invalid.Field, Limit: invalid.Limit,
			Value: invalid.Value, Aborted: !invalid.NotAborted,
		}
		if invalid.Index >= 0 {
			failure.Index = &invalid.Index
		}
		return failure, true
	case errors.As(err, &consumer):
		return failure{Kind: "invalid_consumer", Text: err.Error()}, true
	case errors.As(err, &name):
		return failure{Kind: "invalid_schema_name", Text: err.Error()}, true
	case errors.As(err, &server):
		return failure{Kind: "database", Text: err.Error(), SQLState: server.SQLState()}, true
	default:
		return failure{}, false
	}
}
