package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDatabasePath(t *testing.T) {
	for url, want := range map[string]string{
		"reg.db":                   "reg.db",
		"./reg.db":                 "./reg.db",
		"/var/lib/reg.db":          "/var/lib/reg.db",
		"sqlite:reg.db":            "reg.db",
		"sqlite://reg.db":          "reg.db",
		"sqlite:///var/lib/reg.db": "/var/lib/reg.db",
		"sqlite:reg.db?mode=rwc":   "reg.db",
		"file:reg.db":              "reg.db",
		`C:\reg.db`:                `C:\reg.db`,
		"./odd:name.db":            "./odd:name.db",
	} {
		if got, err := databasePath(url); err != nil || got != want {
			t.Errorf("databasePath(%q) = %q, %v; want %q", url, got, err, want)
		}
	}
	for _, url := range []string{"", "sqlite:", "sqlite://", "sqlite::memory:", "postgres://u:secret@h/d", "postgresql:///d", "mysql://u:secret@h/d", "mysql:u:secret@h", "odd:name.db"} {
		got, err := databasePath(url)
		if err == nil {
			t.Errorf("databasePath(%q) = %q, %v; want an error", url, got, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("databasePath(%q) gives the password away: %v", url, err)
		}
	}
}

func TestFlagsFirst(t *testing.T) {
	app := new(Program).app()
	for _, c := range []struct{ in, want string }{
		{"registry", "registry"},
		{"registry serve", "registry serve"},
		{"registry serve --db x --read-only", "registry serve --db x --read-only"},
		{"registry tag rm app:v1 --yes", "registry tag rm --yes -- app:v1"},
		{"registry tag rm app:v1 --db x app:v2 -n", "registry tag rm --db x -n -- app:v1 app:v2"},
		{"registry tag rm app:v1 --db=x app:v2", "registry tag rm --db=x -- app:v1 app:v2"},
		{"registry --env-file f tag list app", "registry --env-file f tag list -- app"},
		{"registry tag rm -- --yes", "registry tag rm -- --yes"},
		{"registry tag list rm", "registry tag list -- rm"},
		{"registry repo list app --db", "registry repo list --db"},
		{"registry repo list app --nope x", "registry repo list --nope -- app x"},
		{"registry nope --x y", "registry --x -- nope y"},
		{"registry tag rm a --generate-bash-completion", "registry tag rm a --generate-bash-completion"},
	} {
		got := flagsFirst(app, strings.Fields(c.in))
		if d := cmp.Diff(strings.Fields(c.want), got); d != "" {
			t.Errorf("%s: %s", c.in, d)
		}
	}
}

func TestReachable(t *testing.T) {
	for address, want := range map[string]string{
		":5000":         "127.0.0.1:5000",
		"0.0.0.0:5000":  "127.0.0.1:5000",
		"[::]:5000":     "[::1]:5000",
		"192.0.2.1:80":  "192.0.2.1:80",
		"localhost:443": "localhost:443",
	} {
		if got := reachable(address); got != want {
			t.Errorf("reachable(%q) = %q, want %q", address, got, want)
		}
	}
}
