package mirror

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"registry/server/registry"
)

// Upstream says which registry is mirrored, under which name.
type Upstream struct {
	// Name is what clients call the registry: the first part of the repositories its copies are in, with _ for a colon,
	// and what ?ns= says.
	Name     string
	URL      *url.URL // where it is: scheme and host
	User     string   // to log in as; "" for nobody
	Secret   string
	Realm    string   // host that may give tokens for it besides its own; "" for none
	Network  bool     // its hosts may have private addresses
	Proxy    *url.URL // on the way there; nil for none
	EnvProxy bool     // the proxy is the one that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name
	Public   bool     // copies are public
}

// dockerHub is not where its name says.
const (
	dockerHub      = "docker.io"
	dockerHubHost  = "registry-1.docker.io"
	dockerHubRealm = "auth.docker.io"
)

// ParseUpstreams reads a list of upstreams with spaces or commas between them. Each is NAME or NAME=URL, and options with
// commas before them: user=FILE with the name and the password, realm=HOST that gives tokens, proxy=URL that leads there, private-network, and
// public or private, which the copies are. Without one of these two, copies are public if nobody logs in for them.
func ParseUpstreams(text string) (list []Upstream, err error) {
	said := map[string]bool{} // visibility
	for _, word := range strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\n' || c == '\t' }) {
		if !isOption(word) {
			u, err := parseOne(word)
			if err != nil {
				return nil, err
			}
			list = append(list, u)
			continue
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("%q goes after an upstream", word)
		}
		u := &list[len(list)-1]
		if err := u.option(word); err != nil {
			return nil, fmt.Errorf("%s: %w", u.Name, err)
		}
		said[u.Name] = said[u.Name] || word == "public" || word == "private"
	}
	names := map[string]bool{}
	for i := range list {
		u := &list[i]
		if names[u.prefix()] {
			return nil, fmt.Errorf("%s is there twice", u.Name)
		}
		names[u.prefix()] = true
		if !said[u.Name] {
			u.Public = u.User == ""
		}
	}
	return list, nil
}

func isOption(word string) bool {
	name, _, _ := strings.Cut(word, "=")
	switch name {
	case "user", "realm", "proxy":
		return true
	}
	return word == "public" || word == "private" || word == "private-network"
}

func parseOne(word string) (u Upstream, err error) {
	name, address, given := strings.Cut(word, "=")
	u.Name = name
	if repo, err := registry.ParseRepoName(u.prefix()); err != nil || strings.Contains(string(repo), "/") {
		return u, fmt.Errorf("%q is not the name of a registry, such as docker.io", name)
	}
	if !given {
		if address = "https://" + name; name == dockerHub {
			address = "https://" + dockerHubHost
		}
	}
	if name == dockerHub && !given {
		u.Realm = dockerHubRealm
	}
	u.URL, err = url.Parse(address)
	if err != nil || u.URL.Scheme != "https" && u.URL.Scheme != "http" || u.URL.Host == "" || strings.Trim(u.URL.Path, "/") != "" || u.URL.User != nil || u.URL.RawQuery != "" {
		return u, fmt.Errorf("%s: want an address such as https://%s", name, name)
	}
	u.URL = &url.URL{Scheme: u.URL.Scheme, Host: strings.ToLower(u.URL.Host)}
	return u, nil
}

func (u *Upstream) option(word string) (err error) {
	name, value, _ := strings.Cut(word, "=")
	switch name {
	case "user":
		u.User, u.Secret, err = readUser(value)
	case "realm":
		if u.Realm = strings.ToLower(value); value == "" || strings.ContainsAny(value, "/@?#") {
			err = fmt.Errorf("%q is not a host", word)
		}
	case "proxy":
		u.Proxy, err = parseProxy(value)
	case "private-network":
		u.Network = true
	default:
		u.Public = word == "public"
	}
	return err
}

// readUser reads a name and a password from a file: with a colon between them, or a line each.
func readUser(file string) (user, secret string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	clean := strings.TrimRight(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	user, secret, ok := strings.Cut(clean, "\n")
	if !ok {
		user, secret, ok = strings.Cut(clean, ":")
	}
	if !ok || user == "" || secret == "" || strings.Contains(secret, "\n") {
		return "", "", errors.New(file + " has not the form user:password, or a line each")
	}
	return user, secret, nil
}

// Prefixes returns the first parts of the names of the copies' repositories.
func Prefixes(upstreams []Upstream) (list []string) {
	for _, u := range upstreams {
		list = append(list, u.prefix())
	}
	return list
}

// prefix is the first part of the names of its copies' repositories: a colon cannot be in one.
func (u Upstream) prefix() string { return strings.ReplaceAll(u.Name, ":", "_") }

// isLiteral says whether the address that was configured says by itself that it is a private one.
func (u Upstream) isLiteral() bool {
	host := u.URL.Hostname()
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && isPrivate(address)
}
