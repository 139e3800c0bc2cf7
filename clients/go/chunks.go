package posthaste

import "iter"

const (
	// chunkMessagesMax is how many messages one statement carries.
	chunkMessagesMax = 1_000
	// chunkBytesMax bounds one statement, unless a single message is larger.
	chunkBytesMax = 4 * 1024 * 1024
)

// chunks cuts a bulk enqueue into pieces that one statement carries, in order, none empty.
func chunks(entries []entry) iter.Seq[[]entry] {
	return func(yield func([]entry) bool) {
		for len(entries) > 0 {
			length := chunkLength(entries)
			if !yield(entries[:length]) {
				return
			}
			entries = entries[length:]
		}
	}
}

func chunkLength(entries []entry) int {
	bytes := 0
	for index, entry := range entries {
		bytes += weight(entry)
		if index == chunkMessagesMax || index > 0 && bytes > chunkBytesMax {
			return index
		}
	}
	return len(entries)
}

// weight is roughly the bytes; what is left out is bounded by the limits and small.
func weight(e entry) int {
	bytes := len(e.Payload)
	for name, value := range e.Headers {
		bytes += len(name) + len(value)
	}
	return bytes
}
