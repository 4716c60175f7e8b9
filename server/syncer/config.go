package syncer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"registry/server/mirror"
	"registry/server/registry"

	"github.com/goccy/go-yaml"
)

// Entry is what one entry of a file asks for.
type Entry struct {
	Source     string // as the file has it, with the registry
	Type       Type
	Upstream   mirror.Upstream
	Repository registry.RepoName  // there; "" for a whole registry
	Ref        registry.Reference // there, of an image
	Target     registry.RepoName  // here; of a whole registry what comes before the names
	TargetTag  registry.Tag       // of an image
	Tags       []Filter           // a tag is wanted that any of them lets through; none: every tag is
	Repos      Filter             // of a whole registry
	Platforms  []Platform         // none: every one
	Referrers  bool               // copy what has the image as its subject
	DigestTags bool               // copy tags that begin like the image's digest, as cosign makes them
	Schedule   string             // "" if there is none
	Rate       Rate
	Parallel   int // images of one upstream at a time
}

// Type is what is copied.
type Type string

// The types of an entry.
const (
	Registry   Type = "registry"
	Repository Type = "repository"
	Image      Type = "image"
)

// Rate says when an upstream is spared.
type Rate struct {
	Min   int           // pulls that are left to others
	Retry time.Duration // how long to wait then
}

const (
	defaultRetry = 5 * time.Minute
	maxParallel  = 64
)

// The file, as regsync has it. What it knows and this does not is an error, not ignored.
type (
	fileText struct {
		Version  int          `yaml:"version"`
		Creds    []credsText  `yaml:"creds"`
		Defaults defaultsText `yaml:"defaults"`
		Sync     []entryText  `yaml:"sync"`
	}
	credsText struct {
		Registry       string `yaml:"registry"`
		Hostname       string `yaml:"hostname"`
		User           string `yaml:"user"`
		Pass           string `yaml:"pass"`
		PassFile       string `yaml:"passFile"`
		TLS            string `yaml:"tls"`
		Realm          string `yaml:"realm"`
		PrivateNetwork bool   `yaml:"privateNetwork"`
	}
	optionsText struct {
		Schedule   string   `yaml:"schedule"`
		Interval   string   `yaml:"interval"`
		RateLimit  rateText `yaml:"ratelimit"`
		Platforms  []string `yaml:"platforms"`
		Referrers  *bool    `yaml:"referrers"`
		DigestTags *bool    `yaml:"digestTags"`
	}
	defaultsText struct {
		Options  optionsText `yaml:",inline"`
		Parallel int         `yaml:"parallel"`
	}
	entryText struct {
		Options optionsText  `yaml:",inline"`
		Source  string       `yaml:"source"`
		Target  string       `yaml:"target"`
		Type    string       `yaml:"type"`
		Tags    filterText   `yaml:"tags"`
		TagSets []filterText `yaml:"tagSets"`
		Repos   struct {
			Allow []string `yaml:"allow"`
			Deny  []string `yaml:"deny"`
		} `yaml:"repos"`
	}
	filterText struct {
		Allow       []string `yaml:"allow"`
		Deny        []string `yaml:"deny"`
		SemverRange []string `yaml:"semverRange"`
	}
	rateText struct {
		Min   int    `yaml:"min"`
		Retry string `yaml:"retry"`
	}
)

// ReadFile reads a file of entries. Files with passwords are looked for beside it. An error names the line.
func ReadFile(path string) ([]Entry, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	entries, err := Parse(text, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	return entries, nil
}

// Parse reads the text of a file that is in a directory. An error begins with the line, and shows none: there may be
// passwords in it.
func Parse(text []byte, dir string) ([]Entry, error) {
	var f fileText
	err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict(), yaml.AllowFieldPrefixes("x-"))
	var syntax yaml.Error
	if errors.As(err, &syntax) && syntax.GetToken() != nil {
		return nil, fmt.Errorf("%d: %s", syntax.GetToken().Position.Line, syntax.GetMessage())
	}
	if err != nil {
		return nil, fmt.Errorf("1: %w", err)
	}
	entries, err := f.entries(dir)
	var at misplaced
	if errors.As(err, &at) {
		return nil, fmt.Errorf("%d: %s: %w", lineOf(text, at.path), at.path, at.error)
	}
	return entries, err
}

// misplaced is what is wrong about one value of a file.
type misplaced struct {
	path string // such as sync[0].source
	error
}

func (m misplaced) Unwrap() error { return m.error }

// at says where an error is. What is deeper knows better.
func at(path string, err error) error {
	var deeper misplaced
	switch {
	case err == nil:
		return nil
	case errors.As(err, &deeper):
		return misplaced{path + "." + deeper.path, deeper.error}
	}
	return misplaced{path, err}
}

// lineOf finds the value of a path, or what it should be in.
func lineOf(text []byte, path string) int {
	for path != "" {
		if p, err := yaml.PathString("$." + path); err == nil {
			if node, err := p.ReadNode(bytes.NewReader(text)); err == nil && node != nil && node.GetToken() != nil {
				return node.GetToken().Position.Line
			}
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 1
}

func (f *fileText) entries(dir string) (entries []Entry, err error) {
	if f.Version != 0 && f.Version != 1 {
		return nil, at("version", fmt.Errorf("%d is not known here, only 1", f.Version))
	}
	if len(f.Sync) == 0 {
		return nil, at("sync", errors.New("there are no entries"))
	}
	known := map[string]mirror.Upstream{}
	for i, c := range f.Creds {
		path := fmt.Sprintf("creds[%d]", i)
		up, err := c.upstream(dir)
		if err != nil {
			return nil, at(path, err)
		}
		if _, twice := known[up.Name]; twice {
			return nil, at(path+".registry", fmt.Errorf("%s is there twice", up.Name))
		}
		known[up.Name] = up
	}
	switch parallel := &f.Defaults.Parallel; {
	case *parallel < 0 || *parallel > maxParallel:
		return nil, at("defaults.parallel", fmt.Errorf("%d is not from 1 to %d", *parallel, maxParallel))
	case *parallel == 0:
		*parallel = 1
	}
	for i, t := range f.Sync {
		e := Entry{Parallel: f.Defaults.Parallel}
		if err := e.options(f.Defaults.Options); err != nil {
			return nil, at("defaults", err)
		}
		if err := e.read(t, known); err != nil {
			return nil, at(fmt.Sprintf("sync[%d]", i), err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// upstream is where credentials go.
func (c credsText) upstream(dir string) (up mirror.Upstream, err error) {
	if err := noTemplates(c.Registry, c.Hostname, c.User, c.Pass); err != nil {
		return up, err
	}
	if c.TLS != "" && c.TLS != "enabled" && c.TLS != "disabled" {
		return up, at("tls", fmt.Errorf("%q is neither enabled nor disabled; certificates are always checked", c.TLS))
	}
	if up, err = c.address(); err != nil {
		return up, at("registry", err)
	}
	secret := c.Pass
	switch {
	case c.Pass != "" && c.PassFile != "":
		return up, at("passFile", errors.New("there is a pass, too"))
	case c.PassFile != "":
		if !filepath.IsAbs(c.PassFile) {
			c.PassFile = filepath.Join(dir, c.PassFile)
		}
		text, err := os.ReadFile(c.PassFile)
		if err != nil {
			return up, at("passFile", err)
		}
		secret = strings.TrimRight(string(text), "\r\n")
	}
	if (c.User == "") != (secret == "") {
		return up, at("user", errors.New("user and pass or passFile go together"))
	}
	up.User, up.Secret = c.User, secret
	return up, nil
}

// address makes of it what --upstream makes of its words.
func (c credsText) address() (up mirror.Upstream, err error) {
	name := hubName(c.Registry)
	if strings.ContainsAny(c.Registry+c.Hostname+c.Realm, ", \t\n") || name == "" {
		return up, fmt.Errorf("%q is not the name of a registry", c.Registry)
	}
	scheme := "https"
	if c.TLS == "disabled" {
		scheme = "http"
	}
	words := name
	if host := c.Hostname; host != "" || scheme == "http" {
		if host == "" {
			host = name
		}
		words += "=" + scheme + "://" + host
	}
	if c.Realm != "" {
		words += ",realm=" + c.Realm
	}
	if c.PrivateNetwork {
		words += ",private-network"
	}
	list, err := mirror.ParseUpstreams(words)
	if err != nil {
		return up, err
	}
	if len(list) != 1 {
		return up, fmt.Errorf("%q is not the name of a registry", c.Registry)
	}
	return list[0], nil
}

// hubName gives Docker Hub its one name.
func hubName(registry string) string {
	switch registry {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com":
		return "docker.io"
	}
	return registry
}

// noTemplates refuses what regsync would replace: nobody should log in with it as it stands.
func noTemplates(values ...string) error {
	for _, v := range values {
		if strings.Contains(v, "{{") {
			return errors.New("templates are not known here; a password can be in a passFile")
		}
	}
	return nil
}

// options takes what an entry or the defaults say, over what was said before.
func (e *Entry) options(t optionsText) (err error) {
	switch {
	case t.Schedule != "" && t.Interval != "":
		return at("interval", errors.New("there is a schedule, too"))
	case t.Schedule+t.Interval != "":
		e.Schedule = t.Schedule + t.Interval
	}
	if t.RateLimit.Min < 0 {
		return at("ratelimit.min", errors.New("it is negative"))
	}
	if t.RateLimit.Min > 0 {
		e.Rate.Min = t.RateLimit.Min
	}
	if e.Rate.Retry == 0 {
		e.Rate.Retry = defaultRetry
	}
	if t.RateLimit.Retry != "" {
		if e.Rate.Retry, err = time.ParseDuration(t.RateLimit.Retry); err != nil || e.Rate.Retry < time.Second {
			return at("ratelimit.retry", fmt.Errorf("%q is not a time such as 15m", t.RateLimit.Retry))
		}
	}
	if t.Platforms != nil {
		e.Platforms = nil
	}
	for i, text := range t.Platforms {
		p, err := ParsePlatform(text)
		if err != nil {
			return at(fmt.Sprintf("platforms[%d]", i), err)
		}
		e.Platforms = append(e.Platforms, p)
	}
	if t.Referrers != nil {
		e.Referrers = *t.Referrers
	}
	if t.DigestTags != nil {
		e.DigestTags = *t.DigestTags
	}
	return nil
}

func (e *Entry) read(t entryText, known map[string]mirror.Upstream) error {
	if err := e.options(t.Options); err != nil {
		return err
	}
	e.Type, e.Source = Type(t.Type), t.Source
	switch e.Type {
	case Registry, Repository, Image:
	default:
		return at("type", fmt.Errorf("%q is none of registry, repository, image", t.Type))
	}
	if err := e.readSource(t.Source, known); err != nil {
		return at("source", err)
	}
	if err := e.readTarget(t.Target); err != nil {
		return at("target", err)
	}
	return e.readFilters(t)
}

// readSource understands docker's short names as docker does.
func (e *Entry) readSource(text string, known map[string]mirror.Upstream) (err error) {
	if err := noTemplates(text); err != nil {
		return err
	}
	host, rest, _ := strings.Cut(text, "/")
	if e.Type != Registry && !strings.ContainsAny(host, ".:") && host != "localhost" || e.Type != Registry && host == text {
		host, rest = "docker.io", text
	}
	host = hubName(host)
	up, ok := known[host]
	if !ok {
		if up, err = (credsText{Registry: host}).address(); err != nil {
			return err
		}
	}
	e.Upstream = up
	if e.Type == Registry {
		if rest != "" {
			return fmt.Errorf("%q is not the name of a registry", text)
		}
		return nil
	}
	if e.Type == Image {
		if rest, e.Ref, err = cutReference(rest); err != nil {
			return err
		}
	}
	if host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	e.Repository, err = registry.ParseRepoName(rest)
	return err
}

// cutReference takes the tag or the digest off; the tag is latest if there is neither.
func cutReference(text string) (rest string, ref registry.Reference, err error) {
	rest, word, ok := strings.Cut(text, "@")
	if !ok {
		if rest, word, ok = strings.Cut(text, ":"); !ok {
			word = "latest"
		}
	} else {
		rest, _, _ = strings.Cut(rest, ":") // the digest says it better
	}
	ref, err = registry.ParseReference(word)
	return rest, ref, err
}

func (e *Entry) readTarget(text string) (err error) {
	if err := noTemplates(text); err != nil {
		return err
	}
	rest, tag, tagged := strings.Cut(text, ":")
	switch {
	case tagged && strings.Contains(tag, "/"):
		return fmt.Errorf("%q has a host: the target is a repository of this registry", text)
	case tagged && e.Type != Image:
		return fmt.Errorf("%q has a tag, and tags are copied under their own names", text)
	case tagged:
		e.TargetTag, err = registry.ParseTag(tag)
	case e.Type == Image && e.Ref.Tag != "":
		e.TargetTag = e.Ref.Tag
	case e.Type == Image:
		return fmt.Errorf("%q needs a tag", text)
	}
	if err == nil {
		e.Target, err = registry.ParseRepoName(rest)
	}
	return err
}

func (e *Entry) readFilters(t entryText) (err error) {
	sets := t.TagSets
	for i, set := range sets {
		f, err := set.filter()
		if err != nil {
			return at(fmt.Sprintf("tagSets[%d]", i), err)
		}
		e.Tags = append(e.Tags, f)
	}
	f, err := t.Tags.filter()
	if err != nil {
		return at("tags", err)
	}
	if !f.isOpen() {
		e.Tags = append(e.Tags, f)
	}
	if e.Type == Image && len(e.Tags) > 0 {
		return at("tags", errors.New("an image has only the one that source names"))
	}
	if e.Repos, err = (filterText{Allow: t.Repos.Allow, Deny: t.Repos.Deny}).filter(); err != nil {
		return at("repos", err)
	}
	if e.Type != Registry && !e.Repos.isOpen() {
		return at("repos", errors.New("they are chosen from a registry"))
	}
	return nil
}
