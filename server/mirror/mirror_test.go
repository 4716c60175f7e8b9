package mirror

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseUpstreams(t *testing.T) {
	file := filepath.Join(t.TempDir(), "user")
	if err := os.WriteFile(file, []byte("robot:se:cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := ParseUpstreams("docker.io, ghcr.io=https://GHCR.io,user=" + file + " quay.io,private,private-network mine:5000=http://10.0.0.1:5000,realm=Auth.mine:5001,user=" + file + ",public")
	if err != nil || len(list) != 4 {
		t.Fatal(list, err)
	}
	for i, want := range []struct {
		name, prefix, url, user, secret, realm string
		network, public                        bool
	}{
		{"docker.io", "docker.io", "https://registry-1.docker.io", "", "", "auth.docker.io", false, true},
		{"ghcr.io", "ghcr.io", "https://ghcr.io", "robot", "se:cret", "", false, false},
		{"quay.io", "quay.io", "https://quay.io", "", "", "", true, false},
		{"mine:5000", "mine_5000", "http://10.0.0.1:5000", "robot", "se:cret", "auth.mine:5001", false, true},
	} {
		u := list[i]
		got := []any{u.Name, u.prefix(), u.URL.String(), u.User, u.Secret, u.Realm, u.Network, u.Public}
		for j, w := range []any{want.name, want.prefix, want.url, want.user, want.secret, want.realm, want.network, want.public} {
			if got[j] != w {
				t.Errorf("%s: %v, want %v", want.name, got[j], w)
			}
		}
	}
	for _, text := range []string{
		"user=" + file, "docker.io,user=/nowhere", "docker.io docker.io", "a:1 a_1", "UP.example", "a/b", "a=ftp://b", "a=https://", "a=https://b/path",
		"a=https://u:p@b", "a=https://b?x=y", "a=b", "=https://b", "a,realm=", "a,realm=https://b", "a,user=" + t.TempDir(),
		"a,proxy=", "a,proxy=b", "a,proxy=ftp://b", "a,proxy=http://b/path", "a,proxy=http://b?x=y", "proxy=http://b",
	} {
		if list, err := ParseUpstreams(text); err == nil {
			t.Errorf("%q is %+v", text, list)
		}
	}
}

func TestParseProxy(t *testing.T) {
	list, err := ParseUpstreams("docker.io,proxy=http://me:secret@proxy.lan:3128/,private quay.io")
	if err != nil || len(list) != 2 || list[0].Proxy.Redacted() != "http://me:xxxxx@proxy.lan:3128/" || list[1].Proxy != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := ParseUpstreams("docker.io,proxy=ftp://me:secret@proxy.lan"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func FuzzParseUpstreams(f *testing.F) {
	f.Add("docker.io,private quay.io=https://quay.io,realm=x")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseUpstreams(text)
		for _, u := range list {
			if err == nil && (u.URL == nil || u.URL.Host == "" || u.prefix() == "") {
				t.Errorf("%q: %+v", text, u)
			}
		}
	})
}

func TestIsPrivate(t *testing.T) {
	for text, want := range map[string]bool{
		"1.1.1.1": false, "8.8.8.8": false, "2606:4700::1111": false, "::ffff:1.1.1.1": false,
		"127.0.0.1": true, "127.9.9.9": true, "10.0.0.1": true, "172.16.0.1": true, "172.32.0.1": false, "192.168.1.1": true,
		"169.254.169.254": true, "100.64.0.1": true, "100.100.100.200": true, "100.128.0.1": false, "0.0.0.0": true, "0.1.2.3": true,
		"224.0.0.1": true, "239.1.1.1": true, "255.255.255.255": true, "240.0.0.1": true, "198.18.0.1": true, "192.0.0.170": true,
		"::1": true, "::": true, "fe80::1": true, "fe80::1%eth0": true, "fc00::1": true, "fd12::1": true, "ff02::1": true,
		"168.63.129.16": true, "::ffff:168.63.129.16": true, "168.63.129.17": false, "fec0::1": true, "feff::1": true,
		"::ffff:0:127.0.0.1": true, "::ffff:0:a00:1": true, "2001::7f00:1": true, "2001:4860::8888": false, "::ffff:a9fe:a9fe": true,
		"::ffff:127.0.0.1": true, "::ffff:10.0.0.1": true, "::127.0.0.1": true, "64:ff9b::7f00:1": true, "2002:7f00:1::": true,
	} {
		if got := isPrivate(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
