package command

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"

	"registry/server/registry"

	"github.com/dustin/go-humanize"
)

// list prints items as they come, as a JSON array or as a table: a list may be longer than memory.
func list[T any](s *settings, items iter.Seq2[T, error], header []string, row func(T) []string) error {
	out := bufio.NewWriter(s.App.Writer)
	var err error
	if s.Bool("json") {
		err = writeArray(out, items)
	} else {
		err = writeTable(out, items, header, row)
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

// writeArray puts each element on a line of its own, for people with grep.
func writeArray[T any](out io.Writer, items iter.Seq2[T, error]) error {
	separator := "[\n"
	for item, err := range items {
		if err != nil {
			return err
		}
		line, err := json.Marshal(item)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s%s", separator, line); err != nil {
			return err
		}
		separator = ",\n"
	}
	end := "\n]\n"
	if separator == "[\n" {
		end = "[]\n"
	}
	_, err := io.WriteString(out, end)
	return err
}

// writeTable aligns columns over a page at a time.
func writeTable[T any](out io.Writer, items iter.Seq2[T, error], header []string, row func(T) []string) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := 0
	for item, err := range items {
		if err != nil {
			return err
		}
		if rows == 0 {
			fmt.Fprintln(table, strings.Join(header, "\t"))
		}
		cells := row(item)
		for i, cell := range cells {
			cells[i] = Printable(cell)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
		if rows++; rows%pageSize == 0 {
			if err := table.Flush(); err != nil {
				return err
			}
		}
	}
	return table.Flush()
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func humanSize(bytes int64) string { return humanize.IBytes(uint64(bytes)) }

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// forEach yields what each of the patterns yields, with errors in the words of the command line.
func forEach[T any](patterns []pattern, find func(pattern) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, what := range patterns {
			for item, err := range find(what) {
				if !yield(item, explain(what, err)) || err != nil {
					return
				}
			}
		}
	}
}

func one[T any](item T, err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) { yield(item, err) }
}

// all yields what a list has.
func all[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, item := range list {
			if !yield(item, nil) {
				return
			}
		}
	}
}

// orMissing yields an error of code if a pattern that names one exact thing yields nothing. A glob may match nothing.
func orMissing[T any](items iter.Seq2[T, error], what pattern, code *registry.Code) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		matched := what.isGlob()
		for item, err := range items {
			matched = true
			if !yield(item, err) {
				return
			}
		}
		if !matched {
			yield(*new(T), code.With(what.String()))
		}
	}
}
