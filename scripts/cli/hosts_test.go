//go:build unix

package cli

import (
	"net/http"
	"testing"
)

// On loopback every request needs a Host that is this server; elsewhere a browser's does.
func TestHostsOfAServerWithoutUsers(t *testing.T) {
	_, loopback := server(t, nil, "--allowed-host", "reg.lan")
	_, network := server(t, []string{"REGISTRY_ALLOWED_HOST=other.lan,reg.lan"}, "--host", "0.0.0.0", "--auth", "none")
	const docker, browser = "docker/28.0.1", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"
	for _, c := range []struct {
		url, host, agent string
		want             int
	}{
		{loopback, "", docker, 200},
		{loopback, "localhost", browser, 200},
		{loopback, "reg.lan:5000", browser, 200},
		{loopback, "evil.example", docker, 421},
		{loopback, "evil.example", browser, 421},
		{network, "registry:5000", docker, 200},
		{network, "registry:5000", browser, 421},
		{network, "reg.lan", browser, 200},
	} {
		r, err := http.NewRequest("GET", c.url+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("User-Agent", c.agent)
		r.Host = c.host
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != c.want {
			t.Errorf("%s for %q by %s: %s", c.url, c.host, c.agent, answer.Status)
		}
	}
}
