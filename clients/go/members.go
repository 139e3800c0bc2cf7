package posthaste

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// member is one of a JSON object's, with its value as it is written: numbers, white space and the order
// of members would not survive a decoder.
type member struct {
	name, written string
}

// members are those of document, in their order, if it is one JSON object in UTF-8.
func members(document string) ([]member, bool) {
	isObject := strings.HasPrefix(strings.TrimLeft(document, " \t\r\n"), "{")
	if !isObject || !utf8.ValidString(document) || !json.Valid([]byte(document)) {
		return nil, false
	}
	return scan(document)
}

// stringMembers are those of an object of strings, each name once.
func stringMembers(document string) ([]member, bool) {
	found, isObject := members(document)
	if _, isTwice := repeated(found); !isObject || isTwice {
		return nil, false
	}
	for index, member := range found {
		value, isString := readString(member.written)
		if !isString {
			return nil, false
		}
		found[index].written = value
	}
	return found, true
}

// repeated is a name that stands twice.
func repeated(found []member) (string, bool) {
	seen := make(map[string]bool, len(found))
	for _, member := range found {
		if seen[member.name] {
			return member.name, true
		}
		seen[member.name] = true
	}
	return "", false
}

// readString is the string that is written so, if it is one, and Unicode.
func readString(written string) (string, bool) {
	var value *string
	if err := json.Unmarshal([]byte(written), &value); err != nil || value == nil {
		return "", false
	}
	// encoding/json puts a replacement character in the place of a lone surrogate.
	isExact := strings.Count(*value, "\ufffd") == strings.Count(written, "\ufffd")+countEscapes(written, "fffd")
	return *value, isExact
}

// countEscapes counts how often a string writes a character as \u and these digits.
func countEscapes(written, digits string) int {
	count := 0
	for at := 0; at+1 < len(written); at++ {
		if written[at] != '\\' {
			continue
		}
		at++
		if written[at] == 'u' && strings.EqualFold(written[at+1:at+5], digits) {
			count++
		}
	}
	return count
}

// scan finds the members of what is known to be one object, so that only strings and brackets have to
// be told apart.
func scan(document string) ([]member, bool) {
	var found []member
	name, depth, begin := "", 0, -1
	for at := 0; at < len(document); at++ {
		switch letter := document[at]; {
		case letter == '"':
			end := endOfString(document, at)
			if depth == 1 && begin < 0 {
				read, isString := readString(document[at:end])
				if !isString {
					return nil, false
				}
				name = read
			}
			at = end - 1
		case letter == ':' && depth == 1:
			begin = at + 1
		case letter == '{' || letter == '[':
			depth++
		case (letter == '}' || letter == ']') && depth > 1:
			depth--
		case (letter == ',' || letter == '}') && depth == 1 && begin >= 0:
			found = append(found, member{name, document[begin:at]})
			begin = -1
		}
	}
	return found, true
}

// endOfString is behind the quote that closes the string whose opening one stands at at.
func endOfString(document string, at int) int {
	for at++; document[at] != '"'; at++ {
		if document[at] == '\\' {
			at++
		}
	}
	return at + 1
}
