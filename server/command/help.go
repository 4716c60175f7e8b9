package command

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

// topics are the documents that the program has with it: an operator behind an air gap has no repository to read in.
var topics = []struct{ name, about, file string }{
	{"space", "what gc removes, what can be undone, and a wrong clock", "server/gc/README.md"},
	{"damage", "how damaged blobs are found and healed", "server/check/README.md"},
	{"loss", "backup, restore and rebuild", "server/backup/README.md"},
	{"users", "users, tokens, grants and visibility", "server/auth/README.md"},
	{"api", "the management API", "server/admin/README.md"},
	{"tls", "certificates, and proxies in front", "server/certs/README.md"},
	{"upstreams", "pull-through mirrors", "server/mirror/README.md"},
	{"copies", "copies of other registries ahead of time", "server/syncer/README.md"},
	{"air-gap", "bundles for where there is no network", "server/bundle/README.md"},
	{"moving", "how to leave registry:2 and registry:3", "server/takeover/README.md"},
	{"remotes", "push to other registries, and what is wrong with them", "server/doctor/README.md"},
	{"limits", "what bounds a request, and what browsers may do", "server/README.md"},
	{"settings", "every command, flag and variable", "server/command/README.md"},
}

// help shows what a command does, or a document.
func (p *Program) help(_ context.Context, s *settings) error {
	words := s.Args().Slice()
	if len(words) == 0 {
		if err := cli.ShowAppHelp(s.Context); err != nil {
			return err
		}
		return p.listTopics()
	}
	for _, t := range topics {
		if len(words) == 1 && words[0] == t.name {
			return p.showTopic(t.file)
		}
	}
	if !isCommand(s.App.Commands, words) {
		return usagef("no command or topic %q; registry help lists them", strings.Join(words, " "))
	}
	return s.App.RunContext(s.Context.Context, append(append([]string{s.App.Name}, words...), "--help"))
}

// isCommand says whether words name a command, with those above it.
func isCommand(commands []*cli.Command, words []string) bool {
	for _, c := range commands {
		if c.HasName(words[0]) {
			return len(words) == 1 || isCommand(c.Subcommands, words[1:])
		}
	}
	return false
}

func (p *Program) listTopics() error {
	fmt.Fprintln(p.Stdout, "\nTOPICS, for registry help TOPIC:")
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	for _, t := range topics {
		fmt.Fprintf(w, "   %s\t%s\n", t.name, t.about)
	}
	return w.Flush()
}

func (p *Program) showTopic(file string) error {
	text, err := fs.ReadFile(p.Documents, file)
	if err != nil {
		return err
	}
	_, err = p.Stdout.Write(text)
	return err
}
