package registry_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"registry/server/registry"

	"github.com/anishathalye/porcupine"
	"github.com/opencontainers/go-digest"
)

// A tag is a register: put sets it, get reads it, remove clears it and finds out whether it was set.
type tagInput struct {
	op, tag string
	value   digest.Digest
}

type tagOutput struct {
	value digest.Digest // of a get; "" if the tag was not there
	found bool          // of a remove
}

var tagModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byTag := map[string][]porcupine.Operation{}
		for _, o := range history {
			tag := o.Input.(tagInput).tag
			byTag[tag] = append(byTag[tag], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byTag {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return digest.Digest("") },
	Step: func(state, input, output any) (bool, any) {
		in, out, value := input.(tagInput), output.(tagOutput), state.(digest.Digest)
		switch in.op {
		case "put":
			return true, in.value
		case "get":
			return out.value == value, value
		default:
			return out.found == (value != ""), digest.Digest("")
		}
	},
}

// TestTagsAreLinearisable records what concurrent clients saw of a few tags and asks whether one order of the operations
// explains it.
func TestTagsAreLinearisable(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() {
			for i := range 100 {
				in := tagInput{op: []string{"put", "get", "get", "remove"}[rand.IntN(4)], tag: fmt.Sprint("t", rand.IntN(3))}
				m := image(config)
				m.Annotations = map[string]string{"by": fmt.Sprint(client, " ", i)}
				content, mediaType := encode(m)
				in.value = digest.FromBytes(content)
				call := time.Now()
				out, err := f.operate(in, content, mediaType)
				back := time.Now()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call.UnixNano(), Return: back.UnixNano()})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if !porcupine.CheckOperations(tagModel, history) {
		t.Error("no order of the operations explains what the clients saw")
	}
}

func (f *fixture) operate(in tagInput, content []byte, mediaType string) (out tagOutput, err error) {
	ctx := context.Background()
	switch in.op {
	case "put":
		_, err = f.PutManifest(ctx, "a", registry.Put{Ref: tag(in.tag), MediaType: mediaType, Content: content})
	case "get":
		var m registry.Manifest
		m, err = f.StatManifest(ctx, "a", tag(in.tag))
		out.value = m.Digest
	default:
		err = f.DeleteTag(ctx, "a", registry.Tag(in.tag))
		out.found = err == nil
	}
	if registry.ManifestUnknown.Is(err) {
		err = nil
	}
	return out, err
}

// A history that a stale cache would make must be found out, or the check above proves nothing.
func TestTheModelFindsAStaleRead(t *testing.T) {
	op := func(in tagInput, out tagOutput, call, back int64) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: back}
	}
	history := []porcupine.Operation{
		op(tagInput{"put", "t", "one"}, tagOutput{}, 1, 2),
		op(tagInput{"put", "t", "two"}, tagOutput{}, 3, 4),
		op(tagInput{"get", "t", ""}, tagOutput{value: "one"}, 5, 6),
	}
	if porcupine.CheckOperations(tagModel, history) {
		t.Error("a stale read was accepted")
	}
}
