package posthaste

import (
	"fmt"
	"strings"
)

const shownCharacters = 60

// alone is the index of a message that was not one of several.
const alone = -1

// InvalidMessageError says that a message may not be written.
type InvalidMessageError struct {
	// Field at fault, as the SQL functions name it.
	Field string
	// Limit is what the field must be.
	Limit string
	// Value is the offending value, shortened, or its size. Never a payload.
	Value string
	// Index of the message when several were enqueued at once, counted from 0; else -1.
	Index int
	// NotAborted is set when the transaction is not certain to fail: roll it back without fail.
	// That is rare.
	NotAborted bool

	cause error
}

// Error has the text that the SQL functions and the Rust adapters have for the same mistake.
func (e *InvalidMessageError) Error() string {
	text := fmt.Sprintf("message refused: %s must be %s, not %s", e.Field, e.Limit, quote(e.Value))
	if e.Index != alone {
		text = fmt.Sprintf("messages[%d]: %s", e.Index, text)
	}
	if e.NotAborted {
		text += "; the transaction can still commit without the message: roll it back"
	}
	return text
}

// Unwrap returns why the transaction could not be aborted, or nil.
func (e *InvalidMessageError) Unwrap() error {
	return e.cause
}

func (e *InvalidMessageError) notAborted(why error) {
	e.NotAborted, e.cause = true, why
}

// InvalidSchemaNameError says that a schema cannot have this name.
type InvalidSchemaNameError struct {
	// Schema is the name, shortened.
	Schema string
}

// Error says what a name must look like.
func (e *InvalidSchemaNameError) Error() string {
	return fmt.Sprintf("schema name %s is not allowed: use a lower-case letter followed by up to 39 lower-case "+
		`letters, digits or underscores, not starting with pg_, for example "posthaste"`, quote(e.Schema))
}

// InvalidConsumerError says that a consumer cannot have this name.
type InvalidConsumerError struct {
	// Consumer is the name, shortened.
	Consumer string
}

// Error has the text that the SQL functions and the Rust adapters have for the same mistake.
func (e *InvalidConsumerError) Error() string {
	return "message refused: consumer must be 1 to 255 bytes without control characters, not " + quote(e.Consumer)
}

// UnreadableMessageError says that what arrived is not a message of the relay's. It holds nothing of
// it.
type UnreadableMessageError struct {
	// Field at fault, as it is called on the wire; entry, envelope or cloudevent for the whole.
	Field string
	// Rule is what it must be.
	Rule string
}

// Error names the field and what it must be.
func (e *UnreadableMessageError) Error() string {
	quoted := quote(e.Field)
	return fmt.Sprintf("message unreadable: %s must be %s", quoted[1:len(quoted)-1], e.Rule)
}

func shorten(value string) string {
	shown := 0
	for at := range value {
		if shown == shownCharacters {
			return value[:at] + "…"
		}
		shown++
	}
	return value
}

// quote quotes as the SQL functions and the Rust adapters do, so that one mistake has one text.
func quote(text string) string {
	var quoted strings.Builder
	quoted.WriteByte('"')
	// Ranging over a string makes replacement characters of what is no UTF-8.
	for _, character := range text {
		switch {
		case character == '"' || character == '\\':
			quoted.WriteRune('\\')
			quoted.WriteRune(character)
		case character == '\n':
			quoted.WriteString(`\n`)
		case character == '\r':
			quoted.WriteString(`\r`)
		case character == '\t':
			quoted.WriteString(`\t`)
		case character == 0:
			quoted.WriteString(`\0`)
		case isControl(character):
			fmt.Fprintf(&quoted, `\u{%x}`, character)
		default:
			quoted.WriteRune(character)
		}
	}
	quoted.WriteByte('"')
	return quoted.String()
}

func isControl(character rune) bool {
	return character < 0x20 || 0x7f <= character && character <= 0x9f
}
