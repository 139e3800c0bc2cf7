package posthaste

// What tests/vectors says of each wire, and what only Go can be handed.

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

type vector[W any] struct {
	Name    string
	Wire    W
	Message *struct {
		ID            string
		Topic         string
		Key           string
		ContentType   string `json:"content_type"`
		EnqueuedAt    int64  `json:"enqueued_at_micros"`
		CorrelationID string `json:"correlation_id"`
		Headers       [][2]string
		Payload       []byte
	}
	Refused UnreadableMessageError
}

func vectors[W any](t *testing.T, name string) []vector[W] {
	t.Helper()
	text, err := os.ReadFile("../../tests/vectors/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []vector[W] }
	if err := json.Unmarshal(text, &file); err != nil || len(file.Cases) <= 30 {
		t.Fatalf("%d cases, %v", len(file.Cases), err)
	}
	return file.Cases
}

func (v vector[W]) check(t *testing.T, found Received, err error) {
	t.Helper()
	if v.Message == nil {
		var unreadable *UnreadableMessageError
		if !errors.As(err, &unreadable) || *unreadable != v.Refused {
			t.Errorf("%s: %+v, %v, not %v", v.Name, found, err, v.Refused)
		}
		return
	}
	headers := map[string]string{}
	for _, header := range v.Message.Headers {
		headers[header[0]] = header[1]
	}
	want := Received{
		ID: v.Message.ID, Topic: v.Message.Topic, Key: v.Message.Key, ContentType: v.Message.ContentType,
		EnqueuedAt: time.UnixMicro(v.Message.EnqueuedAt).UTC(), CorrelationID: v.Message.CorrelationID,
		Headers: headers, Payload: v.Message.Payload,
	}
	if err != nil || !reflect.DeepEqual(found, want) {
		t.Errorf("%s: %+v, %v, not %+v", v.Name, found, err, want)
	}
}

func TestStreamEntriesMeanWhatTheVectorsSay(t *testing.T) {
	for _, vector := range vectors[[][2]string](t, "redis-stream") {
		texts, slices := map[string]any{}, map[string]any{}
		for _, field := range vector.Wire {
			value := decoded(t, field[1])
			texts[field[0]], slices[field[0]] = string(value), value
		}
		for _, values := range []map[string]any{texts, slices} {
			found, err := ReadStreamEntry(values)
			vector.check(t, found, err)
		}
	}
}

func TestEnvelopesMeanWhatTheVectorsSay(t *testing.T) {
	for _, vector := range vectors[[]byte](t, "envelope") {
		found, err := ReadEnvelope(vector.Wire)
		vector.check(t, found, err)
	}
}

func TestEventsMeanWhatTheVectorsSayAlsoAsStreamEntries(t *testing.T) {
	for _, vector := range vectors[[]byte](t, "cloudevents") {
		found, err := ReadCloudEvent(vector.Wire)
		vector.check(t, found, err)
		found, err = ReadStreamEntry(map[string]any{"cloudevent": string(vector.Wire)})
		vector.check(t, found, err)
	}
}

func decoded(t *testing.T, text string) []byte {
	t.Helper()
	var bytes []byte
	if err := json.Unmarshal([]byte(`"`+text+`"`), &bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

func TestLoneSurrogateIsNoString(t *testing.T) {
	const envelope = `{"id":"01920000-0000-7000-8000-000000000001","topic":"t","content_type":"a/b",` +
		`"enqueued_at":"2026-01-02T03:04:05.000006Z","headers":{},"payload":"PAYLOAD"}`
	for payload, isRead := range map[string]bool{
		`\ud800`: false, `a\udc00b`: false, `\ud83d\ude80`: true, "\ufffd": true, `\ufFfD`: true, `\\ud800`: true,
	} {
		_, err := ReadEnvelope([]byte(strings.Replace(envelope, "PAYLOAD", payload, 1)))
		if (err == nil) != isRead {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

func TestErrorShowsNothingButTheFieldAndWhatItMustBe(t *testing.T) {
	_, err := ReadStreamEntry(map[string]any{"id": "secret"})
	if err.Error() != "message unreadable: id must be a UUID in lower case with hyphens" {
		t.Error(err)
	}
	_, err = ReadStreamEntry(map[string]any{
		"id": "01920000-0000-7000-8000-000000000001", "topic": "t", "content_type": "a/b",
		"enqueued_at": "2026-01-02T03:04:05.000006Z", "h:\n": "\xff", "payload": "p",
	})
	if err.Error() != `message unreadable: h:\n must be valid UTF-8` {
		t.Error(err)
	}
}
