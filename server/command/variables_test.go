package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnknownVariables(t *testing.T) {
	known := map[string]string{"REGISTRY_PORT": "tcp://10.96.0.10:5000", "REGISTRY_DB": "reg.db", "REGISTRY_LOG_LEVEL": "", "OCI_REGISTRY_PORT": "80"}
	rest := []string{
		"REGISTRY_SERVICE_HOST=10.96.0.10", "REGISTRY_SERVICE_PORT_HTTP=5000", "REGISTRY_PORT_5000_TCP=tcp://10.96.0.10:5000",
		"REGISTRY_PORT_5000_TCP_PROTO=tcp", "REGISTRY_UI_PORT=tcp://10.96.0.11:80", "REGISTRY_UI_SERVICE_HOST=10.96.0.11",
		"REGISTRY_LOGLEVEL=debug", "REGISTRY_HTTP_ADDR=:5000", "REGISTRY_AUTH_HTPASSWD_PATH=/auth/htpasswd", "REGISTRY_AUTH_FILE=/auth.json",
		"REGISTRY_UNSET=", "REGISTRYX=1", "PATH=/bin",
	}
	want := []string{
		"REGISTRY_AUTH_HTPASSWD_PATH is ignored: registry:2 has it; say REGISTRY_AUTH=token, and registry user import-htpasswd FILE brings in the users",
		"REGISTRY_DBB is ignored: there is no such setting; the nearest name is REGISTRY_DB",
		"REGISTRY_HTTP_ADDR is ignored: registry:2 has it; say REGISTRY_ADDR",
		"REGISTRY_LOGLEVEL is ignored: there is no such setting; the nearest name is REGISTRY_LOG_LEVEL",
		"REGISTRY_PORT, REGISTRY_PORT_5000_TCP, REGISTRY_PORT_5000_TCP_PROTO, REGISTRY_SERVICE_HOST, REGISTRY_SERVICE_PORT_HTTP, REGISTRY_UI_PORT, " +
			"REGISTRY_UI_SERVICE_HOST is ignored: Kubernetes sets it for a Service of this name (enableServiceLinks: false ends that)",
	}
	got := unknownVariables(known, rest, map[string]string{"REGISTRY_DBB": "x", "REGISTRY_DB": "y", "OTHER": "z"})
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// What is said instead of another registry's variable is a variable of ours, and no command has one that is replaced.
func TestReplacedVariables(t *testing.T) {
	known := map[string]string{}
	if err := takeVariables(new(Program).app().Commands, known); err != nil {
		t.Fatal(err)
	}
	for name, text := range replaced {
		if _, ours := known[name]; ours {
			t.Errorf("%s is a variable of ours", name)
		}
		for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" =,:;", r) }) {
			if _, ours := known[word]; strings.HasPrefix(word, "REGISTRY_") && !ours {
				t.Errorf("%s: there is no %s", name, word)
			}
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"REGISTRY_DBB", "REGISTRY_DB", 1}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// An error about a value names what it came from, for every flag and each of its variables.
func TestErrorsNameTheVariable(t *testing.T) {
	for _, c := range []struct{ variable, value string }{
		{"REGISTRY_ADDR", "nowhere"}, {"REGISTRY_ADDR", "0.0.0.0:0"}, {"FERRO_OCI_LISTEN", "nowhere"}, {"OCI_REGISTRY_PORT", "http"}, {"REGISTRY_HOST", "0.0.0.0"},
		{"REGISTRY_DB", "mysql://h/d"}, {"DATABASE_URL", "postgres://h/d"}, {"STORAGE_TYPE", "tape"}, {"REGISTRY_MAX_MANIFEST", "much"},
		{"REGISTRY_UPLOAD_TIMEOUT", "0s"}, {"REGISTRY_DRAIN_TIMEOUT", "soon"}, {"REGISTRY_MAX_UPLOADS", "0"}, {"REGISTRY_LOG_LEVEL", "loud"},
		{"REGISTRY_LOG_FORMAT", "xml"}, {"REGISTRY_ALLOW_SPARSE", "some"}, {"REGISTRY_AUTH", "htpasswd"}, {"REGISTRY_ANONYMOUS", "all"},
		{"JWT_LIFETIME_SECONDS", "1"}, {"JWT_SECRET", "short"}, {"JWT_SECRET_FILE", "missing"}, {"REGISTRY_ADMIN_PASSWORD_FILE", "missing"},
		{"REGISTRY_UNDO_WINDOW", "-1s"}, {"REGISTRY_GC_INTERVAL", "often"}, {"REGISTRY_SCRUB_INTERVAL", "1ms"}, {"REGISTRY_TAG_TTL", "-1s"},
		{"REGISTRY_CACHE_MAX", "much"}, {"REGISTRY_UPSTREAM", "://"}, {"REGISTRY_MIRROR_FILE", "missing"}, {"REGISTRY_DEBUG_ADDR", "0.0.0.0:1"},
		{"OCI_REGISTRY_PUBLIC_URL", "ftp://x"}, {"REGISTRY_TRUSTED_PROXIES", "all"}, {"REGISTRY_TLS", "yes"}, {"REGISTRY_TLS_CERT", "a.pem"},
		{"REGISTRY_TLS_NAME", "a b"}, {"REGISTRY_ACME_EMAIL", "a@b"}, {"REGISTRY_ENV_FILE", "missing"}, {"REGISTRY_READ_ONLY", "perhaps"},
	} {
		t.Setenv(c.variable, c.value)
		err := new(Program).Run(t.Context(), []string{"registry", "serve"})
		if ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), c.variable) {
			t.Errorf("%s=%s: %v", c.variable, c.value, err)
		}
	}
}
