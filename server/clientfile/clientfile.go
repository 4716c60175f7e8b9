// Package clientfile writes the configuration that makes clients of registries pull through a mirror, in each client's own
// words. Clients find an upstream on the mirror in one of two ways: containerd, and what is built on it, names it in the
// query (?ns=); podman and what is built on it have it in the path. It writes text and knows no registry.
package clientfile

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// Mirror is what clients are told.
type Mirror struct {
	Host      string   // HOST or HOST:PORT, checked by the caller
	PlainHTTP bool     // it has no TLS
	Upstreams []string // registries it stands for, checked as well
	CAFile    string   // where the client has the CA of its certificate; "" if the client trusts it anyway
	CA        string   // what is in that file
}

// File is what a client reads.
type File struct {
	Text  string   // with its path in a comment, where the format has comments
	Notes []string // what else is to do
}

var writers = map[string]func(Mirror) (File, error){
	"containerd": containerd, "docker": docker, "podman": podman, "k3s": k3s, "talos": talos, "openshift": openshift,
}

// Clients are those that Write knows, in alphabetical order.
func Clients() (names []string) {
	for name := range writers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Write writes the file of a client. An error means that the client cannot do what is asked for.
func Write(client string, m Mirror) (File, error) {
	write, ok := writers[client]
	if !ok {
		return File{}, fmt.Errorf("%q is unknown; it may be: %s", client, strings.Join(Clients(), ", "))
	}
	return write(m)
}

func (m Mirror) url() string {
	if m.PlainHTTP {
		return "http://" + m.Host
	}
	return "https://" + m.Host
}

// path is where podman finds an upstream: a colon cannot be in the name of a repository.
func (m Mirror) path(upstream string) string {
	return m.Host + "/" + strings.ReplaceAll(upstream, ":", "_")
}

// lines is text that is put together line by line.
type lines struct{ strings.Builder }

func (l *lines) add(format string, args ...any) { fmt.Fprintf(&l.Builder, format+"\n", args...) }

// server is where containerd pulls from when the mirror does not answer.
func server(upstream string) string {
	if upstream == "docker.io" {
		return "https://registry-1.docker.io"
	}
	return "https://" + upstream
}

func containerd(m Mirror) (File, error) {
	var l lines
	for i, upstream := range m.Upstreams {
		if i > 0 {
			l.add("")
		}
		l.add("# /etc/containerd/certs.d/%s/hosts.toml", upstream)
		l.add("# containerd asks the mirror with ?ns=%s, and the server if the mirror does not answer", upstream)
		l.add("server = %q", server(upstream))
		l.add("")
		l.add("[host.%q]", m.url())
		l.add(`  capabilities = ["pull", "resolve"]`)
		if m.CAFile != "" {
			l.add("  ca = %q", m.CAFile)
		}
	}
	return File{l.String(), []string{
		`containerd reads certs.d if its config.toml has config_path = "/etc/containerd/certs.d" (containerd 2: [plugins."io.containerd.cri.v1.images".registry]; 1.x: [plugins."io.containerd.grpc.v1.cri".registry]); ctr needs --hosts-dir`,
	}}, nil
}

func docker(m Mirror) (File, error) {
	if !slices.Equal(m.Upstreams, []string{"docker.io"}) {
		return File{}, fmt.Errorf("docker has mirrors for docker.io only: pull others by their path, such as %s/nginx", m.path("ghcr.io"))
	}
	var l lines
	l.add("{")
	if m.PlainHTTP {
		l.add("  \"insecure-registries\": [%q],", m.Host)
	}
	l.add("  \"registry-mirrors\": [%q]", m.url())
	l.add("}")
	notes := []string{
		"the file is /etc/docker/daemon.json, and Docker has to be started again to read it",
		"it is for docker.io only, and only with the containerd image store (the default since Docker 29): older engines do not say which registry they mean, and need the path: docker pull " + m.path("docker.io") + "/library/alpine",
	}
	if m.CAFile != "" {
		notes = append(notes, fmt.Sprintf("Docker reads the CA from /etc/docker/certs.d/%s/ca.crt: copy %s there", m.Host, m.CAFile))
	}
	return File{l.String(), notes}, nil
}

func podman(m Mirror) (File, error) {
	var l lines
	l.add("# /etc/containers/registries.conf.d/50-mirror.conf")
	l.add("# podman, buildah, skopeo and CRI-O ask the mirror first, and the registry itself if it does not answer")
	for _, upstream := range m.Upstreams {
		l.add("")
		l.add("[[registry]]")
		l.add("prefix = %q", upstream)
		l.add("location = %q", upstream)
		l.add("")
		l.add("[[registry.mirror]]")
		l.add("location = %q", m.path(upstream))
		if m.PlainHTTP {
			l.add("insecure = true")
		}
	}
	var notes []string
	if m.CAFile != "" {
		notes = []string{fmt.Sprintf("podman reads the CA from /etc/containers/certs.d/%s/ca.crt: copy %s there", m.Host, m.CAFile)}
	}
	return File{l.String(), notes}, nil
}

func k3s(m Mirror) (File, error) {
	var l lines
	l.add("# /etc/rancher/k3s/registries.yaml, on every node; restart k3s afterwards (RKE2: /etc/rancher/rke2/registries.yaml)")
	l.add("mirrors:")
	for _, upstream := range m.Upstreams {
		l.add("  %q:", upstream)
		l.add("    endpoint:")
		l.add("      - %q", m.url())
	}
	if m.CAFile != "" {
		l.add("configs:")
		l.add("  %q:", m.Host)
		l.add("    tls:")
		l.add("      ca_file: %q", m.CAFile)
	}
	return File{Text: l.String()}, nil
}

func talos(m Mirror) (File, error) {
	var l lines
	l.add("# a patch of the machine configuration: talosctl patch machineconfig --patch @mirror.yaml")
	l.add("machine:")
	l.add("  registries:")
	l.add("    mirrors:")
	for _, upstream := range m.Upstreams {
		l.add("      %q:", upstream)
		l.add("        endpoints:")
		l.add("          - %q", m.url())
	}
	if m.CA != "" {
		l.add("    config:")
		l.add("      %q:", m.Host)
		l.add("        tls:")
		l.add("          ca: %s", base64.StdEncoding.EncodeToString([]byte(m.CA)))
	}
	return File{Text: l.String()}, nil
}

func openshift(m Mirror) (File, error) {
	var l lines
	l.add("# oc apply -f mirror.yaml; nodes take it over one after the other")
	for i, kind := range []struct{ name, list string }{{"ImageDigestMirrorSet", "imageDigestMirrors"}, {"ImageTagMirrorSet", "imageTagMirrors"}} {
		if i > 0 {
			l.add("---")
		}
		l.add("apiVersion: config.openshift.io/v1")
		l.add("kind: %s", kind.name)
		l.add("metadata:")
		l.add("  name: mirror")
		l.add("spec:")
		l.add("  %s:", kind.list)
		for _, upstream := range m.Upstreams {
			l.add("    - source: %q", upstream)
			l.add("      mirrors:")
			l.add("        - %q", m.path(upstream))
			l.add("      mirrorSourcePolicy: AllowContactingSource")
		}
	}
	var notes []string
	if m.CA != "" {
		l.openshiftCA(m)
		notes = append(notes, `the cluster reads the CA once it is named: oc patch image.config.openshift.io/cluster --type merge -p '{"spec":{"additionalTrustedCA":{"name":"mirror-ca"}}}'`)
	}
	if m.PlainHTTP {
		notes = append(notes, fmt.Sprintf(`the mirror has no TLS: oc patch image.config.openshift.io/cluster --type merge -p '{"spec":{"registrySources":{"insecureRegistries":[%q]}}}'`, m.Host))
	}
	return File{l.String(), notes}, nil
}

// openshiftCA adds the map that has the CA under the name of the host, with two dots for the colon.
func (l *lines) openshiftCA(m Mirror) {
	l.add("---")
	l.add("apiVersion: v1")
	l.add("kind: ConfigMap")
	l.add("metadata:")
	l.add("  name: mirror-ca")
	l.add("  namespace: openshift-config")
	l.add("data:")
	l.add("  %q: |", strings.ReplaceAll(m.Host, ":", ".."))
	for line := range strings.Lines(strings.TrimSpace(m.CA)) {
		l.add("    %s", strings.TrimRight(line, "\r\n"))
	}
}
