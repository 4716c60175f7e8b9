// Package command is the registry's command line. Flags and variables become structs here, and a command becomes a few
// calls of package registry, the same ones the HTTP handlers make. It knows neither the database nor the blob store:
// main hands it a function that opens them.
//
// Begin reading with Program.commands, the list of commands. settings.go says where a value comes from.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"time"

	"registry/server/auth"
	"registry/server/registry"

	"github.com/urfave/cli/v2"
)

// Exit codes. Findings is for commands that look for trouble and found some.
const (
	ExitOK       = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitFindings = 3
)

// Location says where the registry keeps what it has.
type Location struct {
	DB           string // path of the SQLite file
	Blobs        string // directory
	AllowNetwork bool   // accept a network file system
}

// Opened is a registry that is open, until it is closed when nothing uses it any more.
type Opened struct {
	Registry *registry.Registry
	Auth     func(auth.Config) *auth.Authority // of the same database; its Config needs none
	io.Closer
}

// Program is what main gives the commands.
type Program struct {
	Version string // "" for what the Go toolchain recorded
	Schema  string // the text of schema.sql
	// Documents are the README.md of the folders, as registry help TOPIC shows them.
	Documents fs.FS
	// Open opens the stores, made if they are missing, and the registry on them. cfg is complete but for the stores.
	Open func(ctx context.Context, at Location, cfg registry.Config) (*Opened, error)
	// LockServer makes this process the only server of a database until what it returns is closed. It waits for another
	// one to end, and fails if that does not.
	LockServer func(ctx context.Context, at Location, wait time.Duration, log *slog.Logger) (io.Closer, error)
	// Hangups begins to listen for signals by which a server reads its settings again, until stop is called.
	Hangups        func() (signals <-chan os.Signal, stop func())
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	environment map[string]string // the variables of flags; "" for those that are not set
	args        []string          // as Run got them
}

// Run carries out the command that args name, args[0] being the program itself. It prints no error; ExitCode says what
// the process should end with.
func (p *Program) Run(ctx context.Context, args []string) error {
	p.Stdout, p.Stderr = &printableWriter{raw: p.Stdout}, &printableWriter{raw: p.Stderr}
	app := p.app()
	p.environment, p.args = map[string]string{}, args
	if err := takeVariables(app.Commands, p.environment); err != nil {
		return err
	}
	err := app.RunContext(ctx, flagsFirst(app, args))
	if coder := cli.ExitCoder(nil); errors.As(err, &coder) {
		return usageError{err} // the library's own: help asked for something that does not exist
	}
	return err
}

// ExitCode is the code that a process ends with after err.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, new(usageError)):
		return ExitUsage
	case errors.As(err, new(findings)):
		return ExitFindings
	default:
		return ExitFailed
	}
}

// usageError is a mistake in the command line or the configuration: trying again does not help.
type usageError struct{ error }

// findings is what a command ends with that looked for trouble and found some.
type findings struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func (p *Program) app() *cli.App {
	return &cli.App{
		Name:  "registry",
		Usage: "an OCI container registry: one binary, one SQLite file, one directory of blobs",
		Description: "A flag wins over its variable, a variable of the environment over one in --env-file, and that over the default. " +
			"Flags have variables named like REGISTRY_DRAIN_TIMEOUT for --drain-timeout. " +
			"Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 check, backup, bundle verify, import distribution or doctor found something.",
		Version:              p.build().Version,
		Flags:                []cli.Flag{envFileFlag(), cli.HelpFlag}, // which the library adds only together with its own help command
		Commands:             p.commands(),
		Action:               p.parent,
		OnUsageError:         wrongFlag,
		EnableBashCompletion: true,
		Reader:               p.Stdin,
		Writer:               p.Stdout,
		ErrWriter:            p.Stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // main ends the process, nobody else
	}
}

func (p *Program) commands() []*cli.Command {
	return []*cli.Command{
		p.command("serve", "", "serve the registry over HTTP", p.serve, serveFlags()),
		p.command("healthcheck", "", "ask a server on this machine whether it is ready (/readyz)", p.healthcheck, healthcheckFlags()),
		p.command("trust", "[HOST[:PORT]]", "print the commands that make a client trust the CA of --tls auto", p.trust, trustFlags()),
		p.group("repo", "list and remove repositories",
			p.command("list", "[NAME|GLOB]...", "list repositories", p.repoList, locationFlags(), jsonFlag()),
			p.command("rm", "NAME|GLOB...", "remove repositories with everything in them", p.repoRemove, locationFlags(), removeFlags()),
		),
		p.group("tag", "list and remove tags",
			p.command("list", "REPO[:TAG]...", "list tags; REPO and TAG may be globs", p.tagList, locationFlags(), jsonFlag()),
			p.command("rm", "REPO:TAG|REPO@DIGEST...", "remove tags, or manifests with their tags; REPO and TAG may be globs",
				p.tagRemove, locationFlags(), removeFlags(), ifMatchFlags()),
			p.command("log", "REPO:TAG", "list what a tag pointed at before", p.tagLog, locationFlags(), jsonFlag()),
			p.command("restore", "REPO:TAG", "point a tag at what it pointed at before; without flags, undo its last change",
				p.tagRestore, locationFlags(), tagRestoreFlags(), conditionFlags(), jsonFlag()),
		),
		p.command("undelete", "[REPO|REPO@DIGEST]...", "bring deleted manifests back, with their tags; without arguments, list them",
			p.undelete, locationFlags(), jsonFlag()),
		p.command("cp", "REPO:TAG|REPO@DIGEST REPO[:TAG]", "copy an image inside the registry, or give it another tag",
			p.copy, locationFlags(), copyFlags(), conditionFlags(), jsonFlag()),
		p.command("gc", "", "remove what nothing refers to, beside a running server", p.gc, locationFlags(), gcFlags(), jsonFlag()),
		p.command("why", "REPO:TAG|REPO@DIGEST|DIGEST", "explain what keeps a manifest or a blob, and when gc will take it",
			p.why, locationFlags(), whyFlags(), jsonFlag()),
		p.command("du", "[REPO[:TAG]]...", "show how many bytes repositories or tags take, share and would free; REPO and TAG may be globs",
			p.du, locationFlags(), jsonFlag()),
		p.command("check", "", "compare the database with what is stored; exit status 3 if something is wrong",
			p.check, locationFlags(), checkFlags(), jsonFlag()),
		p.command("backup", "DIR", "make or renew a backup while the server runs", p.backup, locationFlags(), backupFlags(), jsonFlag()),
		p.command("restore", "DIR", "verify a backup and make a registry of it", p.restore, locationFlags(), restoreFlags(), jsonFlag()),
		p.command("rebuild", "", "make a lost database anew from the blob directory", p.rebuild, locationFlags(), rebuildFlags(), jsonFlag()),
		p.group("mirror", "copy images of other registries",
			p.command("sync", "", "copy what a file names and has changed, once", p.mirrorSync, locationFlags(), syncFlags(), jsonFlag()),
		),
		p.group("user", "manage users, who need serve --auth token",
			p.command("add", "NAME", "add a user; before the first start of the server, too", p.userAdd, locationFlags(), userAddFlags()),
			p.command("list", "", "list users", p.userList, locationFlags(), jsonFlag()),
			p.command("passwd", "NAME", "change a user's password, which ends their sessions but not their API tokens", p.userPassword, locationFlags(), passwordFlags()),
			p.command("disable", "NAME", "disable a user, at once", p.changeUser(userDisable), locationFlags()),
			p.command("enable", "NAME", "let a user in again", p.changeUser(userEnable), locationFlags()),
			p.command("admin", "NAME", "let a user do everything", p.changeUser(userAdmin), locationFlags(), userAdminFlags()),
			p.command("rm", "NAME", "remove a user with their tokens and grants; their repositories stay", p.changeUser(userRemove), locationFlags()),
			p.command("import-htpasswd", "FILE", "add the users of a file that htpasswd -B wrote; those that exist stay as they are",
				p.userImport, locationFlags()),
		),
		p.group("group", "manage groups of users, which exist as long as they have members",
			p.command("add", "GROUP USER...", "put users into a group", p.changeMembers("no such user", groupAdd), locationFlags()),
			p.command("rm", "GROUP USER...", "take users out of a group", p.changeMembers("not in the group", groupRemove), locationFlags()),
			p.command("list", "", "list who is in which group", p.groupList, locationFlags(), jsonFlag()),
		),
		p.group("token", "manage API tokens, which are passwords for programs, and refresh tokens, by which clients stay logged in",
			p.command("create", "[NAME]", "make a token and print it, this one time", p.tokenCreate, locationFlags(), tokenCreateFlags()),
			p.command("list", "", "list tokens", p.tokenList, locationFlags(), tokenUserFlags(), refreshFlags(), jsonFlag()),
			p.command("revoke", "NAME", "revoke a token, at once", p.tokenRevoke, locationFlags(), tokenUserFlags(), refreshFlags()),
		),
		p.group("grant", "say who may do what; ACTIONS are pull, create, push, delete and admin, with commas between them",
			p.command("add", "USER|@GROUP ACTIONS GLOB", "let somebody do that in the repositories that match", p.grantAdd, locationFlags()),
			p.command("rm", "USER|@GROUP GLOB", "revoke a grant", p.grantRemove, locationFlags()),
			p.command("list", "", "list grants", p.grantList, locationFlags(), jsonFlag()),
		),
		p.group("key", "manage the key that bearer tokens are signed with",
			p.command("rotate", "", "sign with a new key; what the old one signed is good until it ends", p.keyRotate, locationFlags()),
		),
		p.command("visibility", "REPO [public|private]", "show or set who may read a repository: everybody or only whom a rule lets",
			p.visibility, locationFlags(), jsonFlag()),
		p.group("immutable", "manage tags that never point at anything else",
			p.command("add", "REPOGLOB TAGGLOB", "make tags that match immutable, those to come too", p.changeImmutable((*registry.Registry).AddImmutableRule), locationFlags()),
			p.command("rm", "REPOGLOB TAGGLOB", "remove that rule", p.changeImmutable((*registry.Registry).DeleteImmutableRule), locationFlags()),
			p.command("list", "", "list the rules", p.immutableList, locationFlags(), jsonFlag()),
		),
		p.command("audit", "", "list who did what, the latest first", p.audit, locationFlags(), auditFlags(), jsonFlag()),
		p.command("export", "", "write images, with their signatures and other referrers, to a bundle", p.export, locationFlags(), exportFlags(), jsonFlag()),
		with(p.command("import", "FILE...|DIRECTORY|-", "bring in a bundle, an OCI layout or a docker archive, all or nothing", p.importBundle, locationFlags(), importFlags(), jsonFlag()),
			p.command("distribution", "DIR", "take over the storage directory of registry:2 or registry:3; exit status 3 if something could not be taken",
				p.importDistribution, locationFlags(), takeoverFlags(), jsonFlag())),
		p.command("receipt", "[NAME|GLOB]...", "print what is here, so that export --have can leave it out", p.receipt, locationFlags()),
		p.group("bundle", "look at bundles",
			p.command("verify", "FILE...|DIRECTORY|-", "read a bundle without importing it and name what is damaged or missing; exit status 3 if something is",
				p.bundleVerify, verifyFlags(), jsonFlag()),
		),
		p.command("push", "FILE... URL", "push an OCI layout (directory or tar), or files as an artifact, to any registry, in chunks and past broken connections",
			p.push, remoteFlags(), pushFlags(), jsonFlag()),
		p.command("doctor", "URL", "log in to a registry, push, pull and delete as clients do, and name what is wrong; exit status 3 if something is",
			p.doctor, remoteFlags(), doctorFlags(), jsonFlag()),
		p.command("mirror-config", "HOST:PORT", "print the file that makes a client pull through a mirror",
			p.mirrorConfig, mirrorConfigFlags()),
		p.command("help", "[COMMAND|TOPIC]", "show what a command does, or a document; without an argument, list both", p.help),
		p.command("version", "", "print the version", p.version, jsonFlag()),
		p.command("completion", "bash|zsh|fish", "print a completion script for a shell", p.completion),
		p.command("man", "", "print the manual page, in troff", p.man),
	}
}

// command makes a command whose action gets its settings resolved. Every command takes --env-file.
func (p *Program) command(name, args, usage string, run func(context.Context, *settings) error, flags ...[]cli.Flag) *cli.Command {
	c := &cli.Command{
		Name:            name,
		Usage:           usage,
		ArgsUsage:       args,
		HideHelpCommand: true, // "help" may be an argument
		OnUsageError:    wrongFlag,
		Flags:           []cli.Flag{envFileFlag()},
	}
	for _, some := range flags {
		c.Flags = append(c.Flags, some...)
	}
	c.Action = func(ctx *cli.Context) error {
		s, err := resolve(ctx, p.environment)
		if err != nil {
			return err
		}
		if args == "" && s.NArg() > 0 {
			return usagef("%s takes no arguments, got %q", name, s.Args().First())
		}
		return run(ctx.Context, s)
	}
	return c
}

func (p *Program) group(name, usage string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, Subcommands: commands, Action: p.parent, OnUsageError: wrongFlag}
}

// with gives a command others below it, which are meant if an argument is the name of one.
func with(c *cli.Command, commands ...*cli.Command) *cli.Command {
	c.Subcommands = commands
	return c
}

// parent is what a command does that only holds others: it shows them, or refuses one it does not have.
func (p *Program) parent(c *cli.Context) error {
	switch name := c.Args().First(); {
	case name != "":
		return usagef("unknown command %q; see %s --help", name, c.Command.HelpName)
	case c.Command.Name == c.App.Name:
		return cli.ShowAppHelp(c)
	default:
		return cli.ShowSubcommandHelp(c)
	}
}

func wrongFlag(c *cli.Context, err error, _ bool) error {
	return usagef("%w; see %s --help", err, c.Command.HelpName)
}

// openExisting opens a registry that is there already. A command that lists or removes makes no new one because of a
// mistyped path.
func (p *Program) openExisting(ctx context.Context, s *settings) (*registry.Registry, io.Closer, error) {
	return p.openConfigured(ctx, s, registry.Config{})
}

// openConfigured is openExisting with more said than the defaults.
func (p *Program) openConfigured(ctx context.Context, s *settings, cfg registry.Config) (*registry.Registry, io.Closer, error) {
	return p.openExistingWith(ctx, s, cfg, "")
}

// openExistingWith is openConfigured for a command that works on another directory too, "" for none.
func (p *Program) openExistingWith(ctx context.Context, s *settings, cfg registry.Config, other string) (*registry.Registry, io.Closer, error) {
	at, err := s.location()
	if err != nil {
		return nil, nil, err
	}
	if err := at.exists(); err != nil {
		return nil, nil, err
	}
	cfg.Log = p.warnings()
	opened, err := p.openStoresWith(ctx, at, cfg, other)
	if err != nil {
		return nil, nil, err
	}
	return opened.Registry.As(registry.Actor{User: operator()}), opened, nil
}

// warnings is the log of a command.
func (p *Program) warnings() *slog.Logger {
	return slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// openAuth is openExisting for commands about users.
func (p *Program) openAuth(ctx context.Context, s *settings) (*auth.Authority, io.Closer, error) {
	at, err := s.location()
	if err != nil {
		return nil, nil, err
	}
	if err := at.exists(); err != nil {
		return nil, nil, err
	}
	opened, err := p.openStores(ctx, at, registry.Config{})
	if err != nil {
		return nil, nil, err
	}
	return opened.Auth(auth.Config{}), opened, nil
}

// operator is who runs a command, for the audit. No user of the registry has a name like it.
func operator() string {
	if u, err := user.Current(); err == nil {
		return "os:" + u.Username
	}
	return "os:" + strconv.Itoa(os.Getuid())
}

// exists says what is missing. Opening would turn an empty file into a database and make a missing directory, and a
// removal would then go on without the bytes it is about.
func (at Location) exists() error {
	file, err := os.Stat(at.DB)
	switch {
	case err != nil:
		return fmt.Errorf("no registry at --db %s: %w", at.DB, errors.Unwrap(err))
	case file.IsDir():
		return fmt.Errorf("no registry at --db %s: it is a directory", at.DB)
	case file.Size() == 0:
		return fmt.Errorf("no registry at --db %s: the file is empty", at.DB)
	}
	dir, err := os.Stat(at.Blobs)
	switch {
	case err != nil:
		return fmt.Errorf("no blobs at --blobs %s: %w", at.Blobs, errors.Unwrap(err))
	case !dir.IsDir():
		return fmt.Errorf("no blobs at --blobs %s: it is not a directory", at.Blobs)
	}
	return nil
}
