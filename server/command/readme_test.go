package command

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "write the tables of README.md again")

// README.md says of every command and flag what the code says: run `go test ./server/command -update` after a change.
func TestREADME(t *testing.T) {
	const path = "README.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	app := new(Program).app()
	readme := string(text)
	for name, want := range map[string]string{"commands": commandTable(app.Commands, ""), "flags": flagTable(app.Commands)} {
		begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
		before, rest, ok := strings.Cut(readme, begin)
		got, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("README.md has no %sand %s", begin, end)
		}
		readme = before + begin + want + end + after
		if d := cmp.Diff(want, got); d != "" && !*update {
			t.Errorf("README.md and the code disagree (- code, + README); run with -update:\n%s", d)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(readme), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func commandTable(commands []*cli.Command, path string) string {
	var b strings.Builder
	if path == "" {
		b.WriteString("| command | |\n|---|---|\n")
	}
	for _, c := range commands {
		if c.Subcommands == nil || c.ArgsUsage != "" {
			fmt.Fprintf(&b, "| `%s` | %s |\n", strings.TrimSpace(path+c.Name+" "+escaped(c.ArgsUsage)), escaped(c.Usage))
		}
		b.WriteString(commandTable(c.Subcommands, path+c.Name+" "))
	}
	return b.String()
}

func escaped(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// flagRow is one flag, whichever commands have it.
type flagRow struct {
	cli.DocGenerationFlag
	commands []string
}

func flagTable(commands []*cli.Command) string {
	rows := flagRows(commands, "", nil)
	var b strings.Builder
	b.WriteString("| flag, aliases | variable, aliases | default | of | meaning |\n|---|---|---|---|---|\n")
	all := len(rows[0].commands) // every command has the first
	for _, r := range rows {
		of := strings.Join(r.commands, ", ")
		if len(r.commands) == all {
			of = "every command"
		}
		placeholder, meaning := unquoteUsage(r.GetUsage())
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n",
			codes(dashed(r.Names(), placeholder)), codes(r.GetEnvVars()), defaultOf(r), of, escaped(meaning))
	}
	return b.String()
}

// flagRows collects the flags of commands and their subcommands, each meaning once, in the order they are defined.
func flagRows(commands []*cli.Command, path string, rows []*flagRow) []*flagRow {
	for _, c := range commands {
		for _, f := range c.Flags {
			doc := f.(cli.DocGenerationFlag)
			at := slices.IndexFunc(rows, func(r *flagRow) bool { return slices.Equal(r.Names(), f.Names()) && r.GetUsage() == doc.GetUsage() })
			if at < 0 {
				at, rows = len(rows), append(rows, &flagRow{DocGenerationFlag: doc})
			}
			rows[at].commands = append(rows[at].commands, path+c.Name)
		}
		rows = flagRows(c.Subcommands, path+c.Name+" ", rows)
	}
	return rows
}

// unquoteUsage finds the word in backquotes, which stands for the value.
func unquoteUsage(usage string) (placeholder, meaning string) {
	if parts := strings.Split(usage, "`"); len(parts) == 3 {
		placeholder = parts[1]
	}
	return placeholder, strings.ReplaceAll(usage, "`", "")
}

func dashed(names []string, placeholder string) []string {
	var out []string
	for i, name := range names {
		dashes := "--"
		if len(name) == 1 {
			dashes = "-"
		}
		out = append(out, dashes+name)
		if i == 0 && placeholder != "" {
			out[0] += " " + placeholder
		}
	}
	return out
}

func codes(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return "`" + strings.Join(words, "`, `") + "`"
}

func defaultOf(r *flagRow) string {
	text := strings.Trim(r.GetDefaultText(), `"`)
	if text == "" || text == "false" {
		return ""
	}
	if strings.Contains(text, " ") {
		return text
	}
	return "`" + text + "`"
}
