//go:build linux

package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// row is a line of the table.
type row struct{ group, name, unit string }

// report collects what was measured.
type report struct {
	targets []string
	rows    []row                              // in the order in which they were first measured, a group together
	values  map[row]map[string]map[int]float64 // by target and round
	failed  map[string]map[string]error        // by group and target
}

func newReport(targets []target) *report {
	r := &report{values: map[row]map[string]map[int]float64{}, failed: map[string]map[string]error{}}
	for _, t := range targets {
		r.targets = append(r.targets, t.name)
	}
	return r
}

func (r *report) add(at row, target string, round int, value float64) {
	if r.values[at] == nil {
		r.values[at] = map[string]map[int]float64{}
		r.rows = append(r.rows, at)
	}
	if r.values[at][target] == nil {
		r.values[at][target] = map[int]float64{}
	}
	r.values[at][target][round] = value
}

// fail takes a target out of a group: one wrong answer, and none of its numbers count, in any round.
func (r *report) fail(group, target string, err error) {
	if r.failed[group] == nil {
		r.failed[group] = map[string]error{}
	}
	if r.failed[group][target] == nil {
		r.failed[group][target] = err
	}
}

// write prints the table in Markdown, and below it what failed.
func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, "| | unit | %s |\n|---|---|%s\n", strings.Join(r.targets, " | "), strings.Repeat("---|", len(r.targets)))
	for _, at := range r.rows {
		fmt.Fprintf(w, "| %s | %s |", at.name, at.unit)
		for _, t := range r.targets {
			fmt.Fprintf(w, " %s |", r.cell(at, t))
		}
		fmt.Fprintln(w)
	}
	for _, group := range slices.Sorted(maps.Keys(r.failed)) {
		for _, t := range slices.Sorted(maps.Keys(r.failed[group])) {
			fmt.Fprintf(w, "\nFAILED: %s, %s: %v\n", group, t, r.failed[group][t])
		}
	}
}

// cell is the median of the rounds, the least and the greatest, and the ratio to this registry.
func (r *report) cell(at row, target string) string {
	if r.failed[at.group][target] != nil {
		return "failed"
	}
	values := slices.Collect(maps.Values(r.values[at][target]))
	if len(values) == 0 {
		return "–"
	}
	text := number(median(values))
	if least, most := number(slices.Min(values)), number(slices.Max(values)); least != most {
		text += fmt.Sprintf(" (%s..%s)", least, most)
	}
	if own := r.values[at][ownName]; target != ownName && r.failed[at.group][ownName] == nil {
		var ratios []float64
		for round, v := range r.values[at][target] {
			if own[round] > 0 {
				ratios = append(ratios, v/own[round])
			}
		}
		if len(ratios) > 0 {
			text += " ×" + number(median(ratios))
		}
	}
	return text
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// number has three digits, or all before the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1 || a == 0:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
