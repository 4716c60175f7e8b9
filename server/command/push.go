package command

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"registry/server/remote"
)

// push pushes content to any registry.
func (p *Program) push(ctx context.Context, s *settings) (err error) {
	n := s.NArg() - 1
	if n < 1 {
		return usagef("push wants FILE... and then the URL it goes to")
	}
	names, address := s.Args().Slice()[:n], s.Args().Get(n)
	target, err := remote.ParseTarget(address)
	if err == nil && target.Repo == "" {
		err = fmt.Errorf("%q: want HOST/REPO:TAG", address)
	}
	if err != nil {
		return usageError{err}
	}
	chunk, err := s.size("chunk")
	if err != nil {
		return err
	}
	if s.Int("parallel") < 1 {
		return usagef("--parallel must be at least 1")
	}
	content, err := s.content(names, target.Tag)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	client, err := p.remoteClient(s, target)
	if err != nil {
		return err
	}
	start := time.Now()
	report, err := client.Push(ctx, content, target.Repo, target.Tag, p.pushOptions(s, chunk))
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if s.Bool("json") {
		return printJSON(p.Stdout, report)
	}
	_, err = fmt.Fprintf(p.Stdout, "pushed %s@%s in %s: %d manifests, %d blobs (%s sent), %d there before\n", target, report.Digest,
		time.Since(start).Round(time.Millisecond), report.Manifests, report.Blobs, humanSize(report.Sent), report.There)
	return err
}

func (p *Program) pushOptions(s *settings, chunk int64) remote.PushOptions {
	progress := p.progress()
	return remote.PushOptions{Chunk: chunk, Parallel: s.Int("parallel"),
		Progress: func(r remote.PushReport) { progress.show("%s of %s sent", humanSize(r.Sent), humanSize(r.Bytes)) },
		Retry:    p.retries()}
}

// retries says why something is tried again, once for all blobs that meet the same fault.
func (p *Program) retries() func(error) {
	var mu sync.Mutex
	last := ""
	return func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if text := remote.Cause(err).Error(); text != last {
			last = text
			fmt.Fprintln(p.Stderr, "registry: trying again:", text)
		}
	}
}

// content is what is pushed.
func (s *settings) content(names []string, tag string) (*remote.Content, error) {
	if artifactType := s.String("artifact-type"); artifactType != "" {
		if kind, name, ok := strings.Cut(artifactType, "/"); !ok || kind == "" || name == "" || strings.ContainsAny(artifactType, " ;,\"") {
			return nil, usagef("--artifact-type %q is not a media type", artifactType)
		}
		return remote.NewArtifact(artifactType, names)
	}
	if len(names) > 1 {
		return nil, usagef("push takes one OCI layout; files of an artifact need --artifact-type")
	}
	return remote.OpenLayout(names[0], tag)
}

// remoteClient is a client of a registry as the flags say.
func (p *Program) remoteClient(s *settings, target remote.Target) (*remote.Client, error) {
	cfg, err := p.remoteConfig(s)
	if err != nil {
		return nil, err
	}
	return remote.New(target.Base, cfg)
}

func (p *Program) remoteConfig(s *settings) (cfg remote.Config, err error) {
	cfg = remote.Config{User: s.String("user"), UserAgent: p.userAgent()}
	if (cfg.User != "") != s.Bool("password-stdin") {
		return cfg, usagef("--user and --password-stdin belong together: a password on the command line can be seen by everybody on the machine")
	}
	if cfg.User != "" {
		text, err := io.ReadAll(io.LimitReader(p.Stdin, 4<<10))
		if err != nil {
			return cfg, err
		}
		if cfg.Password = strings.TrimRight(string(text), "\r\n"); cfg.Password == "" {
			return cfg, usagef("--password-stdin: standard input is empty")
		}
	}
	if file := s.String("ca"); file != "" {
		cfg.CA, err = readCA(file)
	}
	return cfg, err
}

func readCA(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usagef("--ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, usagef("--ca: %s has no certificate in PEM form", file)
	}
	return pool, nil
}
