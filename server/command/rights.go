package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"registry/server/auth"
	"registry/server/registry"

	"github.com/urfave/cli/v2"
)

// The commands about what may be done: tokens, grants, keys, visibility, immutable tags, and what was done.

func userAddFlags() []cli.Flag {
	return append(passwordFlags(), &cli.BoolFlag{Name: "admin", Usage: "make the user an admin, who may do everything"})
}

func passwordFlags() []cli.Flag {
	return []cli.Flag{&cli.BoolFlag{Name: "password-stdin", Usage: "read the password from standard input"}}
}

func userAdminFlags() []cli.Flag {
	return []cli.Flag{&cli.BoolFlag{Name: "revoke", Usage: "make the user an ordinary one again"}}
}

func tokenUserFlags() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{Name: "user", Usage: "`USER` whose token it is"}}
}

func refreshFlags() []cli.Flag {
	return []cli.Flag{&cli.BoolFlag{Name: "refresh", Usage: "refresh tokens, by which clients stay logged in, in place of API tokens"}}
}

func tokenCreateFlags() []cli.Flag {
	return append(tokenUserFlags(),
		&cli.GenericFlag{Name: "scope", Value: new(words), Usage: "`ACTIONS:GLOB` that it may do at most, such as push:team/**; can be said several times"},
		&cli.StringFlag{Name: "ttl", DefaultText: "without end", Usage: "it lives for this `TIME`, such as 90d or 12h"})
}

func auditFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "user", Usage: "only what this `USER` did"},
		&cli.StringFlag{Name: "action", Usage: "only this `ACTION`, such as push or delete"},
		&cli.StringFlag{Name: "repo", Usage: "only what was done to this `REPO`"},
		&cli.StringFlag{Name: "since", Usage: "only what was done since this `TIME`, such as 2026-01-31T12:00:00Z, or 7d for so long ago"},
		&cli.IntFlag{Name: "limit", Value: 100, Usage: "the latest ones, this many"},
	}
}

// words are the values of a flag that can be said several times. Those of the library's own kind are cut at commas, which
// a scope has.
type words []string

// Set implements cli.Generic.
func (w *words) Set(value string) error {
	*w = append(*w, value)
	return nil
}

func (w *words) String() string { return strings.Join(*w, " ") }

// tokenCreate prints the token and nothing else.
func (p *Program) tokenCreate(ctx context.Context, s *settings) error {
	user, name := s.String("user"), s.Args().First()
	scopes := *s.Generic("scope").(*words)
	switch {
	case s.NArg() > 1:
		return usagef("want one name for the token, got %d", s.NArg())
	case user == "":
		return usagef("whose token is it? say --user USER")
	case len(scopes) == 0:
		return usagef("what may the token do at most? say --scope ACTIONS:GLOB, such as push:team/**")
	case name == "":
		name = "token-" + time.Now().UTC().Format("20060102-150405")
	}
	lifetime, err := auth.ParseLifetime(s.String("ttl"))
	if err != nil {
		return usagef("--ttl: %w", err)
	}
	return p.withUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
		text, err := a.CreateAPIToken(ctx, by, user, name, strings.Join(scopes, " "), lifetime)
		if err != nil {
			return said(err, user+": no such user", user+" has a token of the name "+name)
		}
		_, err = fmt.Fprintln(p.Stdout, text)
		return err
	})
}

func (p *Program) tokenList(ctx context.Context, s *settings) error {
	return p.withUsers(ctx, s, func(a *auth.Authority, _ registry.Actor) error {
		if user := s.String("user"); user != "" {
			if _, err := a.User(ctx, user); err != nil {
				return aboutUser(user, err)
			}
		}
		if s.Bool("refresh") {
			return listRefreshTokens(ctx, s, a)
		}
		tokens := pages(func(after auth.APIToken, limit int) ([]auth.APIToken, error) {
			return a.APITokens(ctx, s.String("user"), after, limit)
		})
		return list(s, tokens, []string{"USER", "NAME", "SCOPES", "CREATED", "EXPIRES", "LAST USED"}, func(t auth.APIToken) []string {
			return []string{t.User, t.Name, string(t.Scopes), timestamp(t.Created), sometime(t.Expires), sometime(t.LastUsed)}
		})
	})
}

func listRefreshTokens(ctx context.Context, s *settings, a *auth.Authority) error {
	tokens := pages(func(after auth.RefreshToken, limit int) ([]auth.RefreshToken, error) {
		return a.RefreshTokens(ctx, s.String("user"), after.ID, limit)
	})
	return list(s, tokens, []string{"USER", "ID", "CLIENT", "FROM", "CREATED", "LAST USED", "EXPIRES"}, func(t auth.RefreshToken) []string {
		return []string{t.User, t.ID, orDash(t.Client), orDash(t.Address), timestamp(t.Created), timestamp(t.LastUsed), timestamp(t.Expires)}
	})
}

func (p *Program) tokenRevoke(ctx context.Context, s *settings) error {
	args, err := s.arguments(1)
	if err != nil {
		return err
	}
	user := s.String("user")
	if user == "" {
		return usagef("whose token is it? say --user USER")
	}
	return p.withUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
		if s.Bool("refresh") {
			return said(a.DeleteRefreshToken(ctx, by, user, args[0]), user+" has no refresh token "+args[0], "")
		}
		return said(a.DeleteAPIToken(ctx, by, user, args[0]), user+" has no token of the name "+args[0], "")
	})
}

func (p *Program) grantAdd(ctx context.Context, s *settings) error {
	args, err := s.arguments(3)
	if err != nil {
		return err
	}
	actions, err := auth.ParseActions(args[1])
	if err != nil {
		return usageError{err}
	}
	return p.withUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
		return aboutUser(args[0], a.SetGrant(ctx, by, args[0], auth.Rule{Actions: actions, Repository: args[2]}))
	})
}

func (p *Program) grantRemove(ctx context.Context, s *settings) error {
	args, err := s.arguments(2)
	if err != nil {
		return err
	}
	return p.withUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
		return said(a.DeleteGrant(ctx, by, args[0], args[1]), args[0]+" has no grant for "+args[1], "")
	})
}

func (p *Program) grantList(ctx context.Context, s *settings) error {
	return p.withUsers(ctx, s, func(a *auth.Authority, _ registry.Actor) error {
		grants := pages(func(after auth.Grant, limit int) ([]auth.Grant, error) { return a.Grants(ctx, "", after, limit) })
		return list(s, grants, []string{"GRANTEE", "ACTIONS", "REPOSITORY", "CREATED"}, func(g auth.Grant) []string {
			return []string{g.Grantee, g.Actions, g.Repository, timestamp(g.Created)}
		})
	})
}

func (p *Program) keyRotate(ctx context.Context, s *settings) error {
	return p.withUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error { return a.RotateKey(ctx, by) })
}

// visibility shows or sets who may read a repository.
func (p *Program) visibility(ctx context.Context, s *settings) (err error) {
	if s.NArg() < 1 || s.NArg() > 2 {
		return usagef("want %s; see %s --help", s.Command.ArgsUsage, s.Command.HelpName)
	}
	what, word := s.Args().Get(0), s.Args().Get(1)
	repo, err := registry.ParseRepoName(what)
	if err != nil {
		return usagef("%q is not a repository name", what)
	}
	if s.NArg() == 2 && word != "public" && word != "private" {
		return usagef("a repository cannot be %q; it may be: public, private", word)
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	if word != "" {
		return explain(pattern{repo: what}, reg.SetPublic(ctx, repo, word == "public"))
	}
	if _, _, err := reg.Tags(ctx, repo, registry.Page{}); err != nil { // says whether it exists
		return explain(pattern{repo: what}, err)
	}
	public, err := reg.IsPublic(ctx, repo)
	if err != nil {
		return err
	}
	if word = "private"; public {
		word = "public"
	}
	if s.Bool("json") {
		return printJSON(p.Stdout, map[string]string{"repository": what, "visibility": word})
	}
	_, err = fmt.Fprintln(p.Stdout, word)
	return err
}

// changeImmutable is a command that adds or removes a rule.
func (p *Program) changeImmutable(do func(*registry.Registry, context.Context, registry.ImmutableRule) error) func(context.Context, *settings) error {
	return func(ctx context.Context, s *settings) (err error) {
		args, err := s.arguments(2)
		if err != nil {
			return err
		}
		reg, stores, err := p.openExisting(ctx, s)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stores.Close()) }()
		err = do(reg, ctx, registry.ImmutableRule{Repository: args[0], Tag: args[1]})
		switch {
		case registry.RuleInvalid.Is(err):
			return usageError{err}
		case registry.RuleUnknown.Is(err):
			return fmt.Errorf("there is no rule for %s:%s", args[0], args[1])
		}
		return err
	}
}

func (p *Program) immutableList(ctx context.Context, s *settings) (err error) {
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	rules, err := reg.ImmutableRules(ctx)
	if err != nil {
		return err
	}
	return list(s, all(rules), []string{"REPOSITORY", "TAG"}, func(r registry.ImmutableRule) []string { return []string{r.Repository, r.Tag} })
}

func (p *Program) audit(ctx context.Context, s *settings) (err error) {
	f := registry.EventFilter{User: s.String("user"), Action: s.String("action")}
	if repo := s.String("repo"); repo != "" {
		if f.Repository, err = registry.ParseRepoName(repo); err != nil {
			return usagef("--repo: %q is not a repository name", repo)
		}
	}
	if f.Since, err = s.moment("since"); err != nil {
		return err
	}
	if s.Int("limit") < 1 {
		return usagef("--limit %d must be more than nothing", s.Int("limit"))
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	events, err := reg.Audit(ctx, f, s.Int("limit"))
	if err != nil {
		return err
	}
	return list(s, all(events), []string{"AT", "USER", "FROM", "ACTION", "REPOSITORY", "DETAIL"}, func(e registry.Event) []string {
		return []string{timestamp(e.At), orDash(e.User), orDash(e.Address), e.Action, orDash(string(e.Repository)), e.Detail}
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
