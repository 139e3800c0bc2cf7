package posthaste

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// Received is a message as it arrived. An empty field is one that is absent.
//
// What stands on the wire is fixed by tests/vectors, which the relay's tests write. A field that is not
// known is passed over: a relay may be newer than its consumers.
type Received struct {
	// ID is the same at each delivery.
	ID    string
	Topic string
	// Key is the ordering key.
	Key         string
	ContentType string
	// EnqueuedAt is when it was written, on the database's clock.
	EnqueuedAt    time.Time
	CorrelationID string
	Headers       map[string]string
	// Payload is byte for byte what was enqueued.
	Payload []byte
}

const (
	ruleOnce    = "present once"
	rulePresent = "present"
	ruleString  = "a string"
)

var (
	idShape = regexp.MustCompile(`\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z`)
	// time.Parse knows other forms as well.
	timeShape = regexp.MustCompile(`\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\z`)
)

const headersAttribute = "posthasteheaders"

// attributes of an event that are no headers.
var attributes = map[string]bool{
	"specversion": true, "id": true, "source": true, "type": true, "subject": true, "time": true,
	"datacontenttype": true, "dataschema": true, "data": true, "data_base64": true, "correlationid": true,
	headersAttribute: true,
}

// ReadStreamEntry reads an entry of a Redis stream, of either format of the sink redis-stream. Values
// are strings or byte slices, as in the Values of go-redis' XMessage. The error is an
// [*UnreadableMessageError].
func ReadStreamEntry(values map[string]any) (Received, error) {
	read := &reader{find: func(field string) (string, bool, error) {
		value, isThere := values[field]
		if !isThere {
			return "", false, nil
		}
		text, isText := rawText(value)
		if !isText || !utf8.ValidString(text) {
			return "", false, unreadable(field, "valid UTF-8")
		}
		return text, true, nil
	}}
	if event, isThere := values["cloudevent"]; isThere {
		text, _ := rawText(event)
		return ReadCloudEvent([]byte(text))
	}
	message := read.message(names{"id", "topic", "key", "content_type", "enqueued_at", "correlation_id"})
	for field := range values {
		if name, isHeader := strings.CutPrefix(field, "h:"); isHeader {
			message.Headers[name] = read.text(field)
		}
	}
	payload, isBytes := rawText(values["payload"])
	if !isBytes {
		read.refuse("payload", rulePresent)
	}
	message.Payload = []byte(payload)
	return read.done(message)
}

// ReadEnvelope reads an envelope of the sinks redis-list and redis-pubsub, or a line of stdout. The error
// is an [*UnreadableMessageError].
func ReadEnvelope(envelope []byte) (Received, error) {
	written, read := readDocument("envelope", envelope)
	payload, hasPayload := read.optional("payload")
	encoded, isEncoded := read.optional("payload_base64")
	if hasPayload && isEncoded {
		read.refuse("payload", ruleOnce)
	}
	message := read.message(names{"id", "topic", "key", "content_type", "enqueued_at", "correlation_id"})
	headers, areThere := written["headers"]
	pairs, areStrings := stringMembers(headers)
	if !areThere {
		read.refuse("headers", rulePresent)
	} else if !areStrings {
		read.refuse("headers", "an object of strings")
	}
	for _, header := range pairs {
		message.Headers[header.name] = header.written
	}
	switch {
	case isEncoded:
		message.Payload = read.bytes("payload_base64", encoded)
	case hasPayload:
		message.Payload = []byte(payload)
	default:
		read.refuse("payload", rulePresent)
	}
	return read.done(message)
}

// ReadCloudEvent reads a CloudEvent of the relay's (JSON, structured mode); a JSON payload as it stands
// there, byte for byte. The error is an [*UnreadableMessageError].
func ReadCloudEvent(event []byte) (Received, error) {
	written, read := readDocument("cloudevent", event)
	if read.text("specversion") != "1.0" {
		read.refuse("specversion", "1.0")
	}
	message := read.message(names{"id", "type", "subject", "datacontenttype", "time", "correlationid"})
	message.Headers = eventHeaders(written, read)
	message.Payload = eventPayload(written, read, message.ContentType)
	return read.done(message)
}

func eventHeaders(written map[string]string, read *reader) map[string]string {
	headers := map[string]string{}
	if others, areThere := read.optional(headersAttribute); areThere {
		pairs, areStrings := stringMembers(others)
		if !areStrings {
			read.refuse(headersAttribute, "an object of strings, as JSON")
		}
		for _, header := range pairs {
			headers[header.name] = header.written
		}
	}
	for name := range written {
		if attributes[name] {
			continue
		}
		if _, isTwice := headers[name]; isTwice {
			read.refuse(name, ruleOnce)
		}
		headers[name] = read.text(name)
	}
	return headers
}

func eventPayload(written map[string]string, read *reader, contentType string) []byte {
	data, hasData := written["data"]
	encoded, isEncoded := read.optional("data_base64")
	switch {
	case isEncoded && hasData:
		read.refuse("data", ruleOnce)
	case isEncoded:
		return read.bytes("data_base64", encoded)
	case hasData && isJSON(contentType):
		return []byte(data)
	}
	return []byte(read.text("data"))
}

// isJSON says whether the relay puts a payload of this type into an event as it is.
func isJSON(contentType string) bool {
	essence, _, _ := strings.Cut(contentType, ";")
	essence = strings.ToLower(strings.TrimSpace(essence))
	return essence == "application/json" || len(essence) > len("+json") && strings.HasSuffix(essence, "+json")
}

// names are those of the fields that all formats have, as one calls them.
type names struct {
	id, topic, key, contentType, enqueuedAt, correlationID string
}

// reader reads the fields of a message, and keeps the first error.
type reader struct {
	// find returns the text of a field, and whether it is there.
	find func(field string) (string, bool, error)
	err  error
}

// readDocument reads a JSON object: its members as they are written, and a reader of those that are
// strings.
func readDocument(field string, document []byte) (map[string]string, *reader) {
	found, isObject := members(string(document))
	written := make(map[string]string, len(found))
	for _, member := range found {
		written[member.name] = member.written
	}
	read := &reader{find: func(field string) (string, bool, error) {
		text, isThere := written[field]
		if !isThere {
			return "", false, nil
		}
		value, isString := readString(text)
		if !isString {
			return "", false, unreadable(field, ruleString)
		}
		return value, true, nil
	}}
	if name, isTwice := repeated(found); isTwice {
		read.refuse(name, ruleOnce)
	} else if !isObject {
		read.refuse(field, "one JSON object in UTF-8")
	}
	return written, read
}

func (r *reader) message(fields names) Received {
	return Received{
		ID: r.id(fields.id), Topic: r.filled(fields.topic), Key: r.optionalFilled(fields.key),
		ContentType: r.text(fields.contentType), EnqueuedAt: r.time(fields.enqueuedAt),
		CorrelationID: first(r.optional(fields.correlationID)), Headers: map[string]string{},
	}
}

func (r *reader) done(message Received) (Received, error) {
	if r.err != nil {
		return Received{}, r.err
	}
	return message, nil
}

func (r *reader) refuse(field, rule string) {
	r.err = cmp.Or(r.err, unreadable(field, rule))
}

func (r *reader) optional(field string) (string, bool) {
	text, isThere, err := r.find(field)
	r.err = cmp.Or(r.err, err)
	return text, isThere
}

func (r *reader) text(field string) string {
	text, isThere := r.optional(field)
	if !isThere {
		r.refuse(field, rulePresent)
	}
	return text
}

func (r *reader) filled(field string) string {
	text := r.text(field)
	if text == "" {
		r.refuse(field, "not empty")
	}
	return text
}

func (r *reader) optionalFilled(field string) string {
	text, isThere := r.optional(field)
	if isThere && text == "" {
		r.refuse(field, "not empty")
	}
	return text
}

func (r *reader) id(field string) string {
	text := r.text(field)
	if !idShape.MatchString(text) {
		r.refuse(field, "a UUID in lower case with hyphens")
	}
	return text
}

func (r *reader) time(field string) time.Time {
	text := r.text(field)
	read, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || !timeShape.MatchString(text) || read.Year() == 0 {
		r.refuse(field, "a time in UTC such as 2026-01-02T03:04:05.000006Z")
	}
	return read
}

func (r *reader) bytes(field, text string) []byte {
	read, err := base64.StdEncoding.DecodeString(text)
	// The decoder passes over line breaks, and over bits that belong to no byte.
	if err != nil || base64.StdEncoding.EncodeToString(read) != text {
		r.refuse(field, "base64")
	}
	return read
}

func unreadable(field, rule string) error {
	return &UnreadableMessageError{Field: field, Rule: rule}
}

// rawText is the bytes of a value of a stream entry.
func rawText(value any) (string, bool) {
	switch value := value.(type) {
	case string:
		return value, true
	case []byte:
		return string(value), true
	case nil:
		return "", false
	default:
		return fmt.Sprint(value), true
	}
}

func first(text string, _ bool) string {
	return text
}
