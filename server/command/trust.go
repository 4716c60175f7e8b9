package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"registry/server"
	"registry/server/certs"

	"github.com/urfave/cli/v2"
)

func trustFlags() []cli.Flag {
	return slices.Concat(locationFlags()[:1], addressFlags(), []cli.Flag{
		tlsDirFlag(), externalURLFlag(),
		&cli.StringFlag{Name: "for", Usage: "the `CLIENT`: docker, podman, containerd or buildkit"},
		&cli.StringFlag{Name: "root", Usage: "put `DIR` before every path"},
	})
}

// trust prints a shell script that makes a client on another machine trust the server's own CA.
func (p *Program) trust(_ context.Context, s *settings) error {
	steps, known := trustSteps[s.String("for")]
	if !known {
		return usagef("--for %q is unknown; it may be: docker, podman, containerd, buildkit", s.String("for"))
	}
	root := s.String("root")
	if strings.ContainsFunc(root, func(r rune) bool { return r < ' ' || strings.ContainsRune("'\"\\\x7f", r) }) {
		return usagef("--root %q has characters that would have to be quoted", root)
	}
	host, err := s.trustedHost()
	if err != nil {
		return err
	}
	db, err := s.databasePath()
	if err != nil {
		return err
	}
	dir := s.tlsDir(db)
	ca, err := certs.Authority(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no CA in %s %s: the first registry serve --tls auto makes it", s.named("tls-dir"), dir)
	}
	if err != nil {
		return err
	}
	script := "# Trust the registry " + host + ". To be run as root on the client: registry trust … | ssh root@CLIENT sh\nset -e\n"
	_, err = fmt.Fprint(p.Stdout, script+steps(root, host, string(ca)))
	return err
}

// trustedHost is the registry as it stands in references.
func (s *settings) trustedHost() (string, error) {
	if s.NArg() > 1 {
		return "", usagef("trust takes one HOST:PORT, got %q too", s.Args().Get(1))
	}
	if named := s.Args().First(); named != "" {
		if _, _, ok := server.ParseHost(named); !ok {
			return "", usagef("%q is not HOST or HOST:PORT", named)
		}
		return named, nil
	}
	origin, err := s.externalURL()
	if err != nil {
		return "", err
	}
	if _, host, _ := strings.Cut(origin, "://"); host != "" {
		return host, nil
	}
	return s.localHost()
}

// localHost is this machine's name with the port of the server.
func (s *settings) localHost() (string, error) {
	address, err := s.address()
	if err != nil {
		return "", err
	}
	if _, unix := unixPath(address); unix {
		return "", usagef("clients cannot know the registry by its socket: say HOST:PORT")
	}
	name, err := os.Hostname()
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(address)
	host := strings.ToLower(name) + ":" + port
	if _, _, ok := server.ParseHost(host); !ok {
		return "", usagef("clients cannot know the registry as %q: say HOST:PORT", host)
	}
	return host, nil
}

// trustSteps are the commands for each client. A path has the root before it; neither that nor the host has quotes.
var trustSteps = map[string]func(root, host, ca string) string{
	"docker": func(root, host, ca string) string {
		return "# Docker reads this at each pull and push; there is nothing to restart.\n" +
			file(root+"/etc/docker/certs.d/"+host, "ca.crt", ca)
	},
	"podman": func(root, host, ca string) string {
		return "# podman, buildah, skopeo and CRI-O read this each time; there is nothing to restart.\n" +
			file(root+"/etc/containers/certs.d/"+host, "ca.crt", ca)
	},
	"containerd": func(root, host, ca string) string {
		dir := root + "/etc/containerd/certs.d/" + host
		url := "https://" + host
		hosts := "server = \"" + url + "\"\n\n[host.\"" + url + "\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  ca = \"ca.crt\"\n"
		return file(dir, "ca.crt", ca) + file(dir, "hosts.toml", hosts) +
			"# nerdctl reads this by itself, ctr with --hosts-dir " + root + "/etc/containerd/certs.d. Kubernetes needs, once, in\n" +
			"# /etc/containerd/config.toml, followed by systemctl restart containerd:\n" +
			"#   [plugins.\"io.containerd.cri.v1.images\".registry]    (containerd 1: io.containerd.grpc.v1.cri)\n" +
			"#     config_path = \"" + root + "/etc/containerd/certs.d\"\n"
	},
	"buildkit": func(root, host, ca string) string {
		certificates, config := root+"/etc/buildkit/certs.d/"+host, root+"/etc/buildkit/buildkitd.toml"
		table := "[registry.\"" + host + "\"]" // with http = false, since BuildKit guesses for loopback addresses
		return file(certificates, "ca.crt", ca) +
			"# If buildkitd.toml has a table for this registry already, add the ca to that by hand.\n" +
			"grep -qsF '" + table + "' '" + config + "' || " +
			"cat >>'" + config + "' <<'END'\n" + table + "\n  http = false\n  ca = [\"" + certificates + "/ca.crt\"]\nEND\n" +
			"# buildkitd reads this when it starts: systemctl restart buildkit, or make the builder anew.\n"
	},
}

// file are the commands that write a file, and its directory before.
func file(dir, name, content string) string {
	return "mkdir -p '" + dir + "'\ncat >'" + dir + "/" + name + "' <<'END'\n" + content + "END\n"
}
