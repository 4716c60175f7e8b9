package command

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// What the program says of itself, to people and to their shells.

// build is what version prints.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"` // of the commit, RFC 3339
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// build reads what the Go toolchain recorded; the version of a release was set by the linker.
func (p *Program) build() build {
	b := build{Version: p.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (p *Program) version(_ context.Context, s *settings) error {
	b := p.build()
	if s.Bool("json") {
		return printJSON(p.Stdout, b)
	}
	details := b.Go + " " + b.Platform
	if b.Commit != "" {
		details = b.Commit + " " + details
	}
	_, err := fmt.Fprintf(p.Stdout, "registry %s (%s)\n", b.Version, details)
	return err
}

const bashCompletion = `# registry completion bash > /etc/bash_completion.d/registry
_registry() {
  local cur=${COMP_WORDS[COMP_CWORD]}
  local ask=("${COMP_WORDS[@]:0:COMP_CWORD}")
  [[ $cur == -* ]] && ask+=("$cur")
  COMPREPLY=($(compgen -W "$("${ask[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o default -F _registry registry
`

const zshCompletion = `#compdef registry
# registry completion zsh > "${fpath[1]}/_registry"
_registry() {
  local -a ask found
  ask=("${(@)words[1,CURRENT-1]}")
  [[ ${words[CURRENT]} == -* ]] && ask+=("${words[CURRENT]}")
  found=("${(@f)$("${ask[@]}" --generate-bash-completion 2>/dev/null)}")
  [[ -n ${found[1]} ]] && compadd -- "${found[@]}" || _files
}
if [[ $funcstack[1] == _registry ]]; then _registry "$@"; else compdef _registry registry; fi
`

const fishCompletion = `# registry completion fish > ~/.config/fish/completions/registry.fish
function __registry_complete
    set -l ask (commandline -opc)
    set -e ask[1]
    string match -q -- '-*' (commandline -ct); and set -a ask (commandline -ct)
    registry $ask --generate-bash-completion 2>/dev/null
end
complete -c registry -a '(__registry_complete)'
`

func (p *Program) completion(_ context.Context, s *settings) error {
	if s.NArg() != 1 {
		return usagef("completion wants the name of a shell: bash, zsh or fish")
	}
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	script, ok := scripts[s.Args().First()]
	if !ok {
		return usagef("no completion for %q; there is bash, zsh and fish", s.Args().First())
	}
	_, err := io.WriteString(p.Stdout, script)
	return err
}

func (p *Program) man(_ context.Context, s *settings) error {
	showArguments(s.App.Name, s.App.Commands)
	page, err := s.App.ToManWithSection(1)
	if err == nil {
		_, err = io.WriteString(p.Stdout, page)
	}
	return err
}

// showArguments gives each command a line with its arguments, which the library's page leaves out.
func showArguments(path string, commands []*cli.Command) {
	for _, c := range commands {
		if len(c.Subcommands) == 0 || c.ArgsUsage != "" {
			c.UsageText = strings.TrimRight(path+" "+c.Name+" [OPTIONS] "+c.ArgsUsage, " ")
		}
		showArguments(path+" "+c.Name, c.Subcommands)
	}
}
