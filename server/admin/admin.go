// Package admin is the management API: users, tokens, grants, groups, visibility, immutable tags, audit. The list of
// what there is to ask is the table in routes.go, with who may ask it as a column.
//
// Package server reads requests and writes answers; here a request is a Call, and what comes of it an Answer.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"registry/server/auth"
	"registry/server/registry"
)

// MaxBody is the most of a request's body, in bytes.
const MaxBody = 64 << 10

// Call is a request whose sender is known.
type Call struct {
	Target
	Auth     *auth.Authority
	Registry *registry.Registry // as the caller uses it
	Caller   auth.Caller
	By       registry.Actor // the caller, for the audit
	Query    url.Values
	Body     []byte
}

// Answer is what a call comes to.
type Answer struct {
	Status int
	Body   any        // for JSON; nil for none
	Next   url.Values // the query of the next page; nil if there is none
}

func done() Answer { return Answer{Status: http.StatusNoContent} }

func found(body any) Answer { return Answer{Status: http.StatusOK, Body: body} }

// Do answers a call, if the caller may make it. Errors are rows of the table: Denied if they may not, NameUnknown if they may
// not read the repository that it is about, which is also what they are told if there is none.
func (r *Route) Do(ctx context.Context, c Call) (Answer, error) {
	if err := r.Check(ctx, c); err != nil {
		return Answer{}, err
	}
	return r.handler(ctx, c)
}

// Check returns the error of Do for a caller who may not make the call, whose body it does not look at.
func (r *Route) Check(ctx context.Context, c Call) error { return r.Access.check(ctx, c) }

// reading makes a handler of one that wants the body as a T.
func reading[T any](handle func(context.Context, Call, T) (Answer, error)) handler {
	return func(ctx context.Context, c Call) (Answer, error) {
		in, err := decode[T](c.Body)
		if err != nil {
			return Answer{}, err
		}
		return handle(ctx, c, in)
	}
}

// naming is reading for DELETE: what goes on the way may drop its body, so that the query may have the same words.
func naming[T any](handle func(context.Context, Call, T) (Answer, error)) handler {
	return func(ctx context.Context, c Call) (Answer, error) {
		if len(c.Body) == 0 {
			words := map[string]string{}
			for key, values := range c.Query {
				if len(values) > 1 {
					return Answer{}, registry.RequestInvalid.With(key + " is there twice")
				}
				words[key] = values[0]
			}
			c.Body, _ = json.Marshal(words)
		}
		return reading(handle)(ctx, c)
	}
}

// decode reads one JSON object that has nothing but the fields of T. RequestInvalid.
func decode[T any](body []byte) (in T, err error) {
	var none T
	if text := bytes.TrimLeft(body, " \t\r\n"); len(text) == 0 || text[0] != '{' || !utf8.Valid(body) {
		return none, registry.RequestInvalid.With("want a JSON object in UTF-8")
	}
	if err := checkMembers(body, reflect.TypeFor[T]()); err != nil {
		return none, registry.RequestInvalid.With(err.Error())
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err = d.Decode(&in); err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows the object")
		}
	}
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		err = fmt.Errorf("%s cannot be a %s", wrong.Field, wrong.Value)
	}
	if err != nil {
		return none, registry.RequestInvalid.With(trimmed(err).Error())
	}
	return in, nil
}

// checkMembers returns an error if an object has a member twice, or in another case than T's field: a proxy in front would
// read another value than json does.
func checkMembers(body []byte, t reflect.Type) error {
	fields := map[string]bool{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = true
	}
	seen := map[string]bool{}
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return trimmed(err)
		}
		name, _ := key.(string)
		switch {
		case seen[name]:
			return fmt.Errorf("%.40q is there twice", name)
		case !fields[name]:
			return fmt.Errorf("unknown field %.40q", name)
		}
		seen[name] = true
		if err := d.Decode(new(json.RawMessage)); err != nil {
			return trimmed(err)
		}
	}
	return nil
}

func trimmed(err error) error { return errors.New(strings.TrimPrefix(err.Error(), "json: ")) }

// required returns what a field has that must be there. RequestInvalid.
func required[T any](value *T, name string) (T, error) {
	if value == nil {
		var none T
		return none, registry.RequestInvalid.With(name + " is missing")
	}
	return *value, nil
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// page reads n and last. n=0 asks for nothing; more than maxPage is clamped, however much it is.
func (c Call) page() (registry.Page, error) {
	p := registry.Page{Last: c.Query.Get("last"), Limit: defaultPage}
	text := c.Query.Get("n")
	if text == "" {
		return p, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return p, registry.PaginationInvalid.With("n is not a number of entries")
	}
	p.Limit = int(min(n, maxPage))
	return p, nil
}

// listed answers with a page of a list. last is the key of an entry.
func listed[T any](name string, items []T, more bool, p registry.Page, last func(T) string) Answer {
	a := found(map[string][]T{name: append([]T{}, items...)})
	if more {
		a.Next = url.Values{"n": {strconv.Itoa(p.Limit)}, "last": {last(items[len(items)-1])}}
	}
	return a
}

// onPage is a page of a list, and whether there is more.
func onPage[T any](p registry.Page, list func(p registry.Page, limit int) ([]T, error)) (items []T, more bool, err error) {
	if p.Limit == 0 {
		return nil, false, nil
	}
	if items, err = list(p, p.Limit+1); err != nil {
		return nil, false, err
	}
	return items[:min(len(items), p.Limit)], len(items) > p.Limit, nil
}

// paged answers with the page of a list that a call asks for. last is the key of an entry.
func paged[T any](c Call, name string, list func(p registry.Page, limit int) ([]T, error), last func(T) string) (Answer, error) {
	p, err := c.page()
	if err != nil {
		return Answer{}, err
	}
	items, more, err := onPage(p, list)
	if err != nil {
		return Answer{}, err
	}
	a := listed(name, items, more, p, last)
	if user := c.Query.Get("user"); more && user != "" {
		a.Next.Set("user", user)
	}
	return a, nil
}
