package posthaste

// What only Go can get wrong in a message. The limits and their texts are compared with the Rust
// side's by the contract suite, through real drivers.

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func refusal(t *testing.T, message Message) *InvalidMessageError {
	t.Helper()
	_, err := prepare(message, payloadBytesMax, alone)
	var invalid *InvalidMessageError
	if !errors.As(err, &invalid) {
		t.Fatalf("%+v: %v is no refusal", message, err)
	}
	return invalid
}

func TestEachKindOfPayloadHasItsContentType(t *testing.T) {
	cases := []struct {
		message              Message
		payload, contentType string
	}{
		{Message{}, "", "application/octet-stream"},
		{Message{Payload: JSON(map[string]string{"a": "é"})}, `{"a":"é"}`, "application/json"},
		{Message{Payload: JSON(nil)}, "null", "application/json"},
		{Message{Payload: Text("é")}, "é", "text/plain; charset=utf-8"},
		{Message{Payload: Text("")}, "", "text/plain; charset=utf-8"},
		{Message{Payload: Bytes(nil)}, "", "application/octet-stream"},
		{Message{Payload: Bytes([]byte("x")), ContentType: "a/b"}, "x", "a/b"},
	}
	for _, c := range cases {
		c.message.Topic = "t"
		entry, err := prepare(c.message, payloadBytesMax, alone)
		if err != nil || string(entry.Payload) != c.payload || entry.ContentType != c.contentType || entry.Payload == nil {
			t.Errorf("%+v became %+v, %v", c.message, entry, err)
		}
	}
}

func TestPayloadThatCannotBeSentIsRefused(t *testing.T) {
	for _, payload := range []Payload{JSON(math.NaN()), JSON(func() {}), Text("\xff")} {
		if field := refusal(t, Message{Topic: "t", Payload: payload}).Field; field != "payload" {
			t.Errorf("%q was refused", field)
		}
	}
}

func TestTextThatIsNoUTF8IsRefused(t *testing.T) {
	cases := map[string]Message{
		"key":            {Topic: "t", Key: "\xff"},
		"correlation_id": {Topic: "t", CorrelationID: "\xff"},
		"token":          {Topic: "t", Token: "\xff"},
		"header value":   {Topic: "t", Headers: map[string]string{"a": "\xff"}},
	}
	for field, message := range cases {
		invalid := refusal(t, message)
		want := "message refused: " + field + ` must be valid Unicode, not "` + "\ufffd" + `"`
		if invalid.Error() != want {
			t.Errorf("%q, not %q", invalid, want)
		}
	}
}

func TestErrorShowsAtMostSixtyCharacters(t *testing.T) {
	for shown, topic := range map[string]string{
		strings.Repeat("🔑", 60) + "…": strings.Repeat("🔑", 61),
		strings.Repeat("🔑", 60):       strings.Repeat("🔑", 60),
	} {
		if value := refusal(t, Message{Topic: topic}).Value; value != shown {
			t.Errorf("%q is shown as %q", topic, value)
		}
	}
}

func TestCallersHeadersAreLeftAlone(t *testing.T) {
	headers := map[string]string{"a": "b"}
	entry, err := prepare(Message{Topic: "t", Headers: headers, Traceparent: "c"}, payloadBytesMax, alone)
	if err != nil || len(headers) != 1 || len(entry.Headers) != 2 {
		t.Errorf("%v, %v, %v", headers, entry.Headers, err)
	}
}

func TestChunksEndAtTheLimitsOfMessagesAndOfBytes(t *testing.T) {
	const half = chunkBytesMax / 2
	for _, c := range []struct{ payloads, lengths []int }{
		{nil, nil},
		{slices.Repeat([]int{1}, 2_001), []int{1_000, 1_000, 1}},
		{[]int{half, half, 1}, []int{2, 1}},
		{[]int{half, half + 1, 1}, []int{1, 2}},
		{[]int{1, chunkBytesMax + 1, 1}, []int{1, 1, 1}},
	} {
		var entries []entry
		for _, bytes := range c.payloads {
			entries = append(entries, entry{Payload: make([]byte, bytes)})
		}
		var lengths []int
		for chunk := range chunks(entries) {
			lengths = append(lengths, len(chunk))
		}
		if !slices.Equal(lengths, c.lengths) {
			t.Errorf("chunks of %v, not %v", lengths, c.lengths)
		}
	}
}
