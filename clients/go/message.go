package posthaste

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The limits and texts are those of the SQL functions, which check again: here they spare the round
// trip and name the message among many. The payload's limit is the only one that a database sets.
const (
	topicBytesMax         = 255
	keyBytesMax           = 512
	contentTypeBytesMax   = 128
	correlationIDBytesMax = 256
	tokenBytesMax         = 256
	headersMax            = 64
	headerNameBytesMax    = 128
	headersBytesMax       = 16 * 1024
)

const (
	jsonType  = "application/json"
	textType  = "text/plain; charset=utf-8"
	bytesType = "application/octet-stream"
)

var (
	topicShape       = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._:/-]*\z`)
	contentTypeShape = regexp.MustCompile(`\A[ -~]+\z`)
	headerNameShape  = regexp.MustCompile(`\A[A-Za-z0-9._-]+\z`)
)

// Message is what is enqueued. Only Topic must be set; an empty field is one that is absent.
type Message struct {
	// Topic is 1 to 255 ASCII letters, digits and . _ - : / that start with a letter or digit.
	Topic string
	// Payload is made by [JSON], [Text] or [Bytes]; the zero value is an empty payload.
	Payload Payload
	// ContentType overrides the payload's own: 1 to 128 printable ASCII characters.
	ContentType string
	// Key is the ordering key: messages that share it are published in their commit order. At most
	// 512 bytes.
	Key string
	// Headers are at most 64, with names of ASCII letters, digits and . _ -, and 16 KiB together.
	Headers map[string]string
	// CorrelationID ties the message to the request it came from. At most 256 bytes.
	CorrelationID string
	// ID is a UUIDv7; otherwise the database makes one.
	ID string
	// Token makes it one message, however often it is enqueued: only the first is written, later ones
	// answer its id. At most 256 bytes.
	Token string
	// DeliverAt is when it is due: it waits beside the log until then, and can be cancelled. From 1970
	// to 9999; the zero time is none.
	DeliverAt time.Time
	// Traceparent and Tracestate are the W3C trace context, sent as the headers of those names.
	Traceparent, Tracestate string
}

// Payload is the content of a message with its content type.
type Payload struct {
	bytes       []byte
	contentType string
	fault       *fault
}

// fault is why a payload cannot be sent. It is told when the message is enqueued.
type fault struct {
	limit, value string
}

// JSON is a payload that encoding/json writes, of type application/json. JSON(nil) is the document
// null. A value that does not marshal is refused when it is enqueued.
func JSON(value any) Payload {
	text, err := json.Marshal(value)
	if err != nil {
		limit := fmt.Sprintf("valid JSON (%v)", err)
		return Payload{contentType: jsonType, fault: &fault{limit, "a value that does not serialise"}}
	}
	return Payload{bytes: text, contentType: jsonType}
}

// Text is a payload of UTF-8, of type text/plain; charset=utf-8.
func Text(text string) Payload {
	if !utf8.ValidString(text) {
		return Payload{contentType: textType, fault: &fault{"valid Unicode", "text that is no UTF-8"}}
	}
	return Payload{bytes: []byte(text), contentType: textType}
}

// Bytes is a payload of bytes, of type application/octet-stream. They are not copied.
func Bytes(bytes []byte) Payload {
	return Payload{bytes: bytes, contentType: bytesType}
}

// entry has the arguments of enqueue_bytes; as JSON, it is an element of enqueue_many's array. There
// encoding/json writes the payload as base64, so that it arrives as these very bytes.
type entry struct {
	Topic         string            `json:"topic"`
	Payload       []byte            `json:"payload_base64"`
	Key           *string           `json:"key"`
	Headers       map[string]string `json:"headers"`
	ContentType   string            `json:"content_type"`
	CorrelationID *string           `json:"correlation_id"`
	MessageID     *string           `json:"message_id"`
	Token         *string           `json:"token"`
	DeliverAt     *string           `json:"deliver_at"`
}

const enqueueArguments = "enqueue_bytes(topic => $1, payload => $2, key => $3, headers => $4, content_type => $5, " +
	"correlation_id => $6, message_id => $7, token => $8, deliver_at => $9)"

// arguments are in the order of enqueueArguments. Headers were checked: strings always marshal.
func (e entry) arguments() []any {
	headers, _ := json.Marshal(e.Headers)
	return []any{
		e.Topic, e.Payload, e.Key, string(headers), e.ContentType, e.CorrelationID, e.MessageID, e.Token, e.DeliverAt,
	}
}

// refuser makes the errors of one message.
type refuser struct {
	index int
}

func (r refuser) refuse(field, limit, value string) error {
	return &InvalidMessageError{Field: field, Limit: limit, Value: shorten(value), Index: r.index}
}

// prepare checks a message, the index-th of several.
func prepare(message Message, payloadBytesMax, index int) (entry, error) {
	refuser := refuser{index}
	headers, conflict := message.allHeaders()
	contentType := message.mediaType()
	err := cmp.Or(
		refuser.checkTopic(message.Topic),
		refuser.checkText("key", message.Key, keyBytesMax),
		refuser.checkContentType(contentType),
		refuser.checkText("correlation_id", message.CorrelationID, correlationIDBytesMax),
		refuser.checkText("token", message.Token, tokenBytesMax),
		refuser.checkTime(message.DeliverAt),
		refuser.checkHeaders(headers, conflict),
		refuser.checkPayload(message.Payload, payloadBytesMax),
	)
	if err != nil {
		return entry{}, err
	}
	payload := message.Payload.bytes
	if payload == nil {
		// nil would be null, for which the functions have a meaning of their own.
		payload = []byte{}
	}
	return entry{
		Topic: message.Topic, Payload: payload, Key: present(message.Key), Headers: headers,
		ContentType: contentType, CorrelationID: present(message.CorrelationID), MessageID: present(message.ID),
		Token: present(message.Token), DeliverAt: presentTime(message.DeliverAt),
	}, nil
}

// allHeaders are the headers with the trace context, and the name that both have, if they do.
func (m Message) allHeaders() (map[string]string, string) {
	all := maps.Clone(m.Headers)
	if all == nil {
		all = map[string]string{}
	}
	for _, header := range [][2]string{{"traceparent", m.Traceparent}, {"tracestate", m.Tracestate}} {
		name, value := header[0], header[1]
		if value == "" {
			continue
		}
		if _, isThere := all[name]; isThere {
			return all, name
		}
		all[name] = value
	}
	return all, ""
}

func (m Message) mediaType() string {
	switch {
	case m.ContentType != "":
		return m.ContentType
	case m.Payload.contentType != "":
		return m.Payload.contentType
	default:
		return bytesType
	}
}

func (r refuser) checkTopic(topic string) error {
	if topicShape.MatchString(topic) && len(topic) <= topicBytesMax {
		return nil
	}
	limit := fmt.Sprintf("1 to %d ASCII letters, digits and . _ - : / that start with a letter or digit", topicBytesMax)
	return r.refuse("topic", limit, topic)
}

// checkText lets an empty text pass: it is absent.
func (r refuser) checkText(field, value string, bytesMax int) error {
	if !utf8.ValidString(value) {
		return r.refuse(field, "valid Unicode", value)
	}
	if len(value) <= bytesMax && !strings.ContainsFunc(value, isControl) {
		return nil
	}
	return r.refuse(field, fmt.Sprintf("1 to %d bytes without control characters", bytesMax), value)
}

func (r refuser) checkContentType(contentType string) error {
	if contentTypeShape.MatchString(contentType) && len(contentType) <= contentTypeBytesMax {
		return nil
	}
	return r.refuse("content_type", fmt.Sprintf("1 to %d printable ASCII characters", contentTypeBytesMax), contentType)
}

func (r refuser) checkTime(time time.Time) error {
	if time.IsZero() || time.Unix() >= 0 && time.UTC().Year() <= 9999 {
		return nil
	}
	return r.refuse("deliver_at", "a time from 1970 to 9999", fmt.Sprintf("%d microseconds after 1970", time.UnixMicro()))
}

func (r refuser) checkHeaders(headers map[string]string, conflict string) error {
	if conflict != "" {
		return r.refuse("header name", "each name once", conflict)
	}
	if len(headers) > headersMax {
		return r.refuse("headers", fmt.Sprintf("at most %d headers", headersMax), fmt.Sprint(len(headers)))
	}
	total := 0
	// Sorted, so that the same message is refused with the same text.
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if err := r.checkHeader(name, headers[name]); err != nil {
			return err
		}
		total += len(name) + len(headers[name])
	}
	return r.atMost("headers", total, headersBytesMax)
}

func (r refuser) checkHeader(name, value string) error {
	if !headerNameShape.MatchString(name) || len(name) > headerNameBytesMax {
		limit := fmt.Sprintf("1 to %d ASCII letters, digits and . _ -", headerNameBytesMax)
		return r.refuse("header name", limit, name)
	}
	if strings.ContainsRune(value, 0) {
		return r.refuse("header value", "no NUL character", value)
	}
	if !utf8.ValidString(value) {
		return r.refuse("header value", "valid Unicode", value)
	}
	return nil
}

func (r refuser) checkPayload(payload Payload, bytesMax int) error {
	if payload.fault != nil {
		return r.refuse("payload", payload.fault.limit, payload.fault.value)
	}
	return r.atMost("payload", len(payload.bytes), bytesMax)
}

func (r refuser) atMost(field string, bytes, limit int) error {
	if bytes <= limit {
		return nil
	}
	return r.refuse(field, fmt.Sprintf("at most %d bytes", limit), fmt.Sprintf("%d bytes", bytes))
}

// presentTime is nil for the zero time; else a text that PostgreSQL reads, to the microsecond.
func presentTime(at time.Time) *string {
	if at.IsZero() {
		return nil
	}
	return present(at.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano))
}

// present is nil for an absent text.
func present(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
