package clientfile_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry/server/clientfile"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestFiles(t *testing.T) {
	plain := clientfile.Mirror{Host: "127.0.0.1:5000", PlainHTTP: true, Upstreams: []string{"docker.io"}}
	secure := clientfile.Mirror{Host: "mirror.example.com:5443", Upstreams: []string{"docker.io", "ghcr.io", "registry.example.com:5000"},
		CAFile: "/etc/ssl/mirror.pem", CA: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}
	for _, client := range clientfile.Clients() {
		for kind, m := range map[string]clientfile.Mirror{"plain": plain, "secure": secure} {
			if client == "docker" {
				m.Upstreams = []string{"docker.io"}
			}
			f, err := clientfile.Write(client, m)
			if err != nil {
				t.Fatal(client, err)
			}
			if client == "docker" && !json.Valid([]byte(f.Text)) {
				t.Error("not JSON:", f.Text)
			}
			got := f.Text
			for _, note := range f.Notes {
				got += "note: " + note + "\n"
			}
			path := filepath.Join("testdata", client+"-"+kind)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("%s (-update writes it): %s", path, d)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	if _, err := clientfile.Write("docker", clientfile.Mirror{Host: "a", Upstreams: []string{"ghcr.io"}}); err == nil || !strings.Contains(err.Error(), "docker.io only") {
		t.Error(err)
	}
	if _, err := clientfile.Write("emacs", clientfile.Mirror{}); err == nil || !strings.Contains(err.Error(), "containerd, docker") {
		t.Error(err)
	}
}
