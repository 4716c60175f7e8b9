package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"registry/server/auth"
	"registry/server/registry"

	"golang.org/x/term"
)

// The commands about users and groups. Like all that change something they work on the database, and a running server
// knows at its next request.

// withUsers calls fn with the users of a registry. by is for the audit.
func (p *Program) withUsers(ctx context.Context, s *settings, fn func(a *auth.Authority, by registry.Actor) error) (err error) {
	a, stores, err := p.openAuth(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	return fn(a, registry.Actor{User: operator()})
}

// withFirstUsers is withUsers for commands that may come before the first start of the server: where there is no
// registry they make one, as the server would.
func (p *Program) withFirstUsers(ctx context.Context, s *settings, fn func(a *auth.Authority, by registry.Actor) error) (err error) {
	at, err := s.location()
	if err != nil {
		return err
	}
	if _, err := os.Stat(at.DB); !errors.Is(err, os.ErrNotExist) {
		return p.withUsers(ctx, s, fn)
	}
	opened, err := p.openStores(ctx, at, registry.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	fmt.Fprintf(p.Stderr, "registry: made a new registry at %s\n", at.DB)
	return fn(opened.Auth(auth.Config{}), registry.Actor{User: operator()})
}

// arguments returns the arguments if there are as many as the command wants.
func (s *settings) arguments(n int) ([]string, error) {
	if s.NArg() != n {
		return nil, usagef("want %s; see %s --help", s.Command.ArgsUsage, s.Command.HelpName)
	}
	return s.Args().Slice(), nil
}

// said is an error in the words of the command line, with what is missing or taken. What cannot be at all is wrong usage.
func said(err error, missing, taken string) error {
	var e *registry.Error
	switch {
	case registry.Missing.Is(err):
		return errors.New(missing)
	case registry.Taken.Is(err):
		return errors.New(taken)
	case registry.RequestInvalid.Is(err) && errors.As(err, &e):
		return usagef("%v", e.Detail)
	case registry.Conflict.Is(err) && errors.As(err, &e):
		return fmt.Errorf("%v", e.Detail)
	}
	return err
}

func aboutUser(name string, err error) error {
	return said(err, name+": no such user", name+": there is a user of that name")
}

func (p *Program) userAdd(ctx context.Context, s *settings) error {
	args, err := s.arguments(1)
	if err != nil {
		return err
	}
	if err := auth.CheckUserName(args[0]); err != nil {
		return usageError{err}
	}
	password, err := p.newPassword(ctx, s, args[0])
	if err != nil {
		return err
	}
	return p.withFirstUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
		if err := a.CreateUser(ctx, by, args[0], password, s.Bool("admin"), true); err != nil {
			return aboutUser(args[0], err)
		}
		fmt.Fprintln(p.Stdout, "added", args[0])
		return p.noteNoAdmin(ctx, a)
	})
}

// noteNoAdmin says so if nobody may do everything: the server makes an admin only where there is no user at all.
func (p *Program) noteNoAdmin(ctx context.Context, a *auth.Authority) error {
	has, err := a.HasAdmin(ctx)
	if err == nil && !has {
		fmt.Fprintln(p.Stderr, "registry: no user is an admin; registry user admin NAME makes one")
	}
	return err
}

func (p *Program) userPassword(ctx context.Context, s *settings) error {
	args, err := s.arguments(1)
	if err != nil {
		return err
	}
	return p.withUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
		if _, err := a.User(ctx, args[0]); err != nil { // before anybody types
			return aboutUser(args[0], err)
		}
		password, err := p.newPassword(ctx, s, args[0])
		if err != nil {
			return err
		}
		return aboutUser(args[0], a.SetPassword(ctx, by, args[0], password))
	})
}

// newPassword reads a password, from a terminal twice.
func (p *Program) newPassword(ctx context.Context, s *settings, name string) (password string, err error) {
	terminal, _ := p.Stdin.(*os.File)
	switch {
	case s.Bool("password-stdin"):
		text, readErr := io.ReadAll(io.LimitReader(p.Stdin, 64<<10))
		password, err = strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), readErr
	case !isTerminal(p.Stdin):
		return "", usagef("there is no terminal to ask for a password; --password-stdin reads it from standard input")
	default:
		password, err = p.askTwice(ctx, terminal, name)
	}
	if err == nil {
		if wrong := auth.CheckNewPassword(name, password); wrong != nil {
			err = usageError{wrong}
		}
	}
	return password, err
}

func (p *Program) askTwice(ctx context.Context, terminal *os.File, name string) (string, error) {
	first, err := p.ask(ctx, terminal, "Password for "+name+": ")
	if err != nil {
		return "", err
	}
	second, err := p.ask(ctx, terminal, "Again: ")
	if err == nil && first != second {
		err = errors.New("the passwords differ")
	}
	return first, err
}

// ask reads a line that is not shown. If ctx ends meanwhile the terminal is left as it was.
func (p *Program) ask(ctx context.Context, terminal *os.File, question string) (string, error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(p.Stderr, question)
	defer fmt.Fprintln(p.Stderr)
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return string(l.text), l.err
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

func (p *Program) userList(ctx context.Context, s *settings) error {
	return p.withUsers(ctx, s, func(a *auth.Authority, _ registry.Actor) error {
		users := pages(func(after auth.User, limit int) ([]auth.User, error) { return a.Users(ctx, after.Name, limit) })
		return list(s, users, []string{"NAME", "ADMIN", "DISABLED", "CREATED", "LAST LOGIN"}, func(u auth.User) []string {
			return []string{u.Name, yesNo(u.Admin), yesNo(u.Disabled), timestamp(u.Created), sometime(u.LastLogin)}
		})
	})
}

// pages are the entries of a list that is asked for in pages, each after the last entry of the one before.
func pages[T any](page func(after T, limit int) ([]T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var after T
		for {
			list, err := page(after, pageSize)
			if err != nil {
				yield(after, err)
				return
			}
			for _, item := range list {
				if after = item; !yield(item, nil) {
					return
				}
			}
			if len(list) < pageSize {
				return
			}
		}
	}
}

// sometime is a time of which the zero means never.
func sometime(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return timestamp(t)
}

// changeUser is a command that does something to the user that its only argument names.
func (p *Program) changeUser(do func(ctx context.Context, a *auth.Authority, by registry.Actor, s *settings, name string) error) func(context.Context, *settings) error {
	return func(ctx context.Context, s *settings) error {
		args, err := s.arguments(1)
		if err != nil {
			return err
		}
		return p.withUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
			return aboutUser(args[0], do(ctx, a, by, s, args[0]))
		})
	}
}

func userDisable(ctx context.Context, a *auth.Authority, by registry.Actor, _ *settings, name string) error {
	return a.SetDisabled(ctx, by, name, true)
}

func userEnable(ctx context.Context, a *auth.Authority, by registry.Actor, _ *settings, name string) error {
	return a.SetDisabled(ctx, by, name, false)
}

func userAdmin(ctx context.Context, a *auth.Authority, by registry.Actor, s *settings, name string) error {
	return a.SetAdmin(ctx, by, name, !s.Bool("revoke"))
}

func userRemove(ctx context.Context, a *auth.Authority, by registry.Actor, _ *settings, name string) error {
	return a.DeleteUser(ctx, by, name)
}

func (p *Program) userImport(ctx context.Context, s *settings) error {
	args, err := s.arguments(1)
	if err != nil {
		return err
	}
	file, err := os.Open(args[0])
	if err != nil {
		return usageError{err}
	}
	defer file.Close()
	return p.withFirstUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
		added, err := a.ImportHtpasswd(ctx, by, file)
		for _, name := range added {
			fmt.Fprintln(p.Stdout, "added", name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], said(err, "", ""))
		}
		return p.noteNoAdmin(ctx, a)
	})
}

// changeMembers is a command that does something to each user that it names after a group.
func (p *Program) changeMembers(missing string, do func(context.Context, *auth.Authority, registry.Actor, auth.Member) error) func(context.Context, *settings) error {
	return func(ctx context.Context, s *settings) error {
		if s.NArg() < 2 {
			return usagef("want %s; see %s --help", s.Command.ArgsUsage, s.Command.HelpName)
		}
		group := strings.TrimPrefix(s.Args().First(), "@")
		return p.withUsers(ctx, s, func(a *auth.Authority, by registry.Actor) error {
			for _, name := range s.Args().Tail() {
				if err := do(ctx, a, by, auth.Member{Group: group, User: name}); err != nil {
					return said(err, name+": "+missing, "")
				}
			}
			return nil
		})
	}
}

func groupAdd(ctx context.Context, a *auth.Authority, by registry.Actor, m auth.Member) error {
	return a.AddMember(ctx, by, m)
}

func groupRemove(ctx context.Context, a *auth.Authority, by registry.Actor, m auth.Member) error {
	return a.RemoveMember(ctx, by, m)
}

func (p *Program) groupList(ctx context.Context, s *settings) error {
	return p.withUsers(ctx, s, func(a *auth.Authority, _ registry.Actor) error {
		members := pages(func(after auth.Member, limit int) ([]auth.Member, error) { return a.Members(ctx, after, limit) })
		return list(s, members, []string{"GROUP", "USER"}, func(m auth.Member) []string { return []string{m.Group, m.User} })
	})
}
