package command

import (
	"context"
	"encoding/pem"
	"fmt"
	"os"

	"registry/server/clientfile"
	"registry/server/remote"
)

// mirrorConfig prints the file that makes a client pull through a mirror.
func (p *Program) mirrorConfig(_ context.Context, s *settings) error {
	if s.NArg() != 1 {
		return usagef("mirror-config wants one HOST:PORT, of the mirror")
	}
	host, err := bareHost(s.Args().First())
	if err != nil {
		return usageError{err}
	}
	m := clientfile.Mirror{Host: host, PlainHTTP: s.Bool("plain-http"), CAFile: s.String("ca"), Upstreams: s.StringSlice("upstream")}
	if len(m.Upstreams) == 0 {
		m.Upstreams = []string{"docker.io"}
	}
	for i, name := range m.Upstreams {
		if m.Upstreams[i], err = bareHost(name); err != nil {
			return usagef("--upstream %w", err)
		}
	}
	if m.CAFile != "" {
		if m.PlainHTTP {
			return usagef("--ca and --plain-http do not go together")
		}
		if _, err := readCA(m.CAFile); err != nil {
			return err
		}
		if m.CA, err = certificates(m.CAFile); err != nil {
			return err
		}
	}
	file, err := clientfile.Write(s.String("for"), m)
	if err != nil {
		return usagef("--for: %w", err)
	}
	for _, note := range file.Notes {
		fmt.Fprintln(p.Stderr, "registry:", note)
	}
	_, err = fmt.Fprint(p.Stdout, file.Text)
	return err
}

// certificates are those in a PEM file, without whatever else is in it, such as a key.
func certificates(file string) (all string, err error) {
	text, err := os.ReadFile(file)
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			all += string(pem.EncodeToMemory(block))
		}
	}
	return all, err
}

// bareHost checks HOST or HOST:PORT.
func bareHost(s string) (string, error) {
	target, err := remote.ParseTarget(s)
	if err == nil && target.Base.Host != s {
		err = fmt.Errorf("%q: want HOST or HOST:PORT", s)
	}
	return s, err
}
