package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// What a manifest may have beside its bytes. Real ones have about ten members for each reference, and are four deep.
const (
	maxMembers = 100_000
	maxNesting = 100
	maxEntries = 10_000 // of a list
)

// checkBounds bounds what any reader makes of a JSON value that is not much longer than it should be.
func checkBounds(content []byte) error {
	members, depth, inString := 0, 0, false
	for i := 0; i < len(content); i++ {
		switch c := content[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == ':':
			members++
		case c == '{', c == '[':
			depth++
		case c == '}', c == ']':
			depth--
		}
		if depth > maxNesting {
			return fmt.Errorf("it is nested more than %d deep", maxNesting)
		}
		if members > maxMembers {
			return fmt.Errorf("it has more than %d members", maxMembers)
		}
	}
	return nil
}

// value splits valid JSON after its first value. Nothing is copied.
func value(data []byte) (first, rest []byte) {
	data = trimJSON(data)
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
			continue
		case c == '"':
			inString = !inString
		case inString:
			continue
		case c == '{', c == '[':
			depth++
		case c == '}', c == ']':
			if depth--; depth < 0 { // of what the value is in
				return data[:i], data[i:]
			}
		case depth > 0:
			continue
		case c == ',', c == ':', c == ' ', c == '\t', c == '\r', c == '\n':
			return data[:i], data[i:]
		default:
			continue
		}
		if depth == 0 && !inString {
			return data[:i+1], data[i+1:]
		}
	}
	return data, nil
}

func trimJSON(data []byte) []byte { return bytes.TrimLeft(data, " \t\r\n") }

// after takes a byte off that follows in JSON; ok is false if another does.
func after(data []byte, c byte) (rest []byte, ok bool) {
	data = trimJSON(data)
	if len(data) == 0 || data[0] != c {
		return data, false
	}
	return data[1:], true
}

// eachMember calls fn for the members of a valid JSON object.
func eachMember(data []byte, fn func(name string, value json.RawMessage) error) error {
	rest, ok := after(data, '{')
	if !ok {
		return fmt.Errorf("not a JSON object")
	}
	for more := !bytes.HasPrefix(trimJSON(rest), []byte("}")); more; {
		var raw, member []byte
		raw, rest = value(rest)
		if rest, ok = after(rest, ':'); !ok {
			return fmt.Errorf("not a JSON object")
		}
		member, rest = value(rest)
		name, err := unquote(raw)
		if err == nil {
			err = fn(name, member)
		}
		if err != nil {
			return err
		}
		rest, more = after(rest, ',')
	}
	return nil
}

func unquote(raw []byte) (s string, err error) {
	if len(raw) >= 2 && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	return s, json.Unmarshal(raw, &s)
}

// object is a JSON object with its members unread.
type object map[string]json.RawMessage

// members reads one level of a valid JSON object. known are the names this program acts on: they may
// appear once, and in no other case, because parsers differ in which of two they take. A member that is null is one that
// is not there: Go writes an empty list that way.
func members(data []byte, known ...string) (object, error) {
	m := object{}
	err := eachMember(data, func(name string, value json.RawMessage) error {
		if _, twice := m[name]; twice {
			return fmt.Errorf("member %.40q is given twice", name)
		}
		for _, k := range known {
			if name != k && strings.EqualFold(name, k) {
				return fmt.Errorf("member %.40q differs from %q in case only", name, k)
			}
		}
		m[name] = value
		return nil
	})
	for name, value := range m {
		if isNull(value) {
			delete(m, name)
		}
	}
	return m, err
}

func isNull(value json.RawMessage) bool { return string(value) == "null" }

// text returns a string member, "" if there is none.
func (m object) text(name string) (string, error) {
	raw, ok := m[name]
	if !ok {
		return "", nil
	}
	if len(raw) == 0 || raw[0] != '"' {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return unquote(raw)
}

// integer returns an integer member. JSON has no integers; a fraction or an exponent is refused rather than rounded.
func (m object) integer(name string) (int64, error) {
	n, err := strconv.ParseInt(string(m[name]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not an integer", name)
	}
	return n, nil
}

// list returns an array member, nil if there is none.
func (m object) list(name string) (items []json.RawMessage, err error) {
	raw, ok := m[name]
	if !ok {
		return nil, nil
	}
	rest, ok := after(raw, '[')
	if !ok {
		return nil, fmt.Errorf("%s is not an array", name)
	}
	for more := !bytes.HasPrefix(trimJSON(rest), []byte("]")); more; {
		var item []byte
		item, rest = value(rest)
		if items = append(items, item); len(items) > maxEntries {
			return nil, fmt.Errorf("%s has more than %d entries", name, maxEntries)
		}
		rest, more = after(rest, ',')
	}
	return items, nil
}
