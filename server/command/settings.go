package command

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"registry/server/backup"

	"github.com/dustin/go-humanize"
	"github.com/joho/godotenv"
	"github.com/urfave/cli/v2"
)

// origin is where a value comes from. A greater one wins.
type origin int

const (
	byDefault origin = iota
	inFile
	inEnvironment
	onCommandLine
)

// settings are the flags of the command that runs, filled in from everywhere a value may come from: command line,
// environment, --env-file, default.
type settings struct {
	*cli.Context
	origin   map[string]origin // by the flag's first name; a missing one is byDefault
	variable map[string]string // that a value came from, by the flag's first name
	warnings []string          // what was set and does nothing
}

// takeVariables takes the variables that flags have out of the process's environment, those that are not set as "". The library would read them too,
// but take an empty one for a value, and not tell a value that was typed from one that was not.
func takeVariables(commands []*cli.Command, taken map[string]string) error {
	for _, c := range commands {
		for _, f := range c.Flags {
			for _, variable := range variables(f) {
				if _, again := taken[variable]; !again { // several commands have the flag
					taken[variable] = os.Getenv(variable)
				}
				if err := os.Unsetenv(variable); err != nil {
					return err
				}
			}
		}
		if err := takeVariables(c.Subcommands, taken); err != nil {
			return err
		}
	}
	return nil
}

// variables are the names of a flag in the environment, ours first.
func variables(f cli.Flag) []string {
	if doc, ok := f.(cli.DocGenerationFlag); ok {
		return doc.GetEnvVars()
	}
	return nil
}

// resolve gives the flags that were not typed the values of the environment or of the env file. An empty variable is an
// unset one, which is what a compose file means that passes on a variable nobody gave a value.
func resolve(c *cli.Context, environment map[string]string) (*settings, error) {
	s := &settings{Context: c, origin: map[string]origin{}, variable: map[string]string{}}
	file, err := readEnvFile(c, environment)
	if err != nil {
		return nil, err
	}
	typed := c.LocalFlagNames()
	for _, f := range c.Command.Flags {
		s.warnIdle(f, environment)
		name := f.Names()[0]
		if slices.Contains(typed, name) {
			s.origin[name] = onCommandLine
			continue
		}
		found, err := s.fill(f, environment, inEnvironment, "")
		if err == nil && !found {
			_, err = s.fill(f, file, inFile, " in the env file")
		}
		if err != nil {
			return nil, err
		}
	}
	s.warnings = append(s.warnings, unknownVariables(environment, os.Environ(), file)...)
	if os.Getenv("PASSWORD_SALT") != "" || file["PASSWORD_SALT"] != "" {
		s.warnings = append(s.warnings, "PASSWORD_SALT is ignored: every password gets a salt of its own")
	}
	return s, nil
}

func readEnvFile(c *cli.Context, environment map[string]string) (map[string]string, error) {
	path, said := environment["REGISTRY_ENV_FILE"], "REGISTRY_ENV_FILE"
	for _, level := range c.Lineage() { // the flag may stand before the command, too
		if level.IsSet("env-file") {
			path, said = level.String("env-file"), "--env-file"
			break
		}
	}
	if path == "" {
		return nil, nil
	}
	file, err := godotenv.Read(path)
	if err != nil {
		return nil, usagef("%s: %w", said, err)
	}
	return file, nil
}

// fill sets a flag from the first of its variables that has a value.
func (s *settings) fill(f cli.Flag, values map[string]string, from origin, where string) (found bool, err error) {
	name := f.Names()[0]
	for _, variable := range variables(f) {
		value := values[variable]
		if value == "" || isServiceLink(variable, value) {
			continue
		}
		if err := s.Set(name, value); err != nil {
			return true, usagef("%s%s: --%s cannot be %q: %w", variable, where, name, value, err)
		}
		s.origin[name], s.variable[name] = from, variable+where
		return true, nil
	}
	return false, nil
}

// named is what a flag is called for the person who gave it its value: by the flag, or by the variable.
func (s *settings) named(flag string) string {
	if variable := s.variable[flag]; variable != "" {
		return variable
	}
	return "--" + flag
}

// badf says what is wrong with a flag's value, in words that follow its name.
func (s *settings) badf(flag, format string, args ...any) error {
	return usagef(s.named(flag)+" "+format, args...)
}

// bad is badf for an error, which has words of its own.
func (s *settings) bad(flag string, err error) error { return usagef("%s: %w", s.named(flag), err) }

// warnIdle notes variables that another name of the same setting makes idle: somebody who moves here from another
// registry would wonder.
func (s *settings) warnIdle(f cli.Flag, environment map[string]string) {
	winner := ""
	for _, variable := range variables(f) {
		switch value := environment[variable]; {
		case value == "" || isServiceLink(variable, value):
		case winner == "":
			winner = variable
		case value != environment[winner]:
			s.warnings = append(s.warnings, variable+" is ignored: "+winner+" is set")
		}
	}
}

// flagsFirst moves flags before the arguments of their command: the flag package stops at the first argument, and
// people type `tag rm app:v1 --yes`.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 || args[len(args)-1] == "--generate-bash-completion" {
		return args
	}
	var done, arguments []string
	flags, commands := app.Flags, app.Commands
	done, args = args[:1:1], args[1:]
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			arguments = append(arguments, args...)
			break
		}
		if len(arg) > 1 && arg[0] == '-' {
			done = append(done, arg)
			if !wantsValue(flags, arg) {
				continue
			}
			if len(args) == 0 {
				return done // for the library to complain about
			}
			done, args = append(done, args[0]), args[1:]
			continue
		}
		at := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(arg) })
		if at < 0 || len(arguments) > 0 {
			arguments = append(arguments, arg)
			continue
		}
		done = append(done, arg)
		flags, commands = commands[at].Flags, commands[at].Subcommands
	}
	if len(arguments) == 0 {
		return done
	}
	return append(append(done, "--"), arguments...)
}

// wantsValue says whether the argument after arg belongs to it.
func wantsValue(flags []cli.Flag, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	at := slices.IndexFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	if at < 0 {
		return false
	}
	doc, ok := flags[at].(cli.DocGenerationFlag)
	return ok && doc.TakesValue()
}

// location is where --db and --blobs point.
func (s *settings) location() (Location, error) {
	if err := s.checkStorage(); err != nil {
		return Location{}, err
	}
	path, err := s.databasePath()
	if err != nil {
		return Location{}, err
	}
	at := Location{DB: path, AllowNetwork: s.Bool("allow-network-fs")}
	if at.Blobs, err = blobsPath(s.String("blobs"), path); err != nil {
		return at, s.badf("blobs", "%w", err)
	}
	return at, nil
}

// blobsPath is the directory of blobs: the one that is named, or the one that belongs to the database.
func blobsPath(text, db string) (string, error) {
	switch scheme := schemeOf(text); {
	case scheme == "s3":
		return "", fmt.Errorf("s3:…: S3 is not supported yet; this version keeps blobs in a directory: --blobs DIRECTORY")
	case scheme != "":
		return "", fmt.Errorf("%s:…: unknown kind of storage; it may be a directory, and ./ goes before a path with a colon", scheme)
	case text != "":
		return text, nil
	}
	dir, err := backup.BlobsOf(db)
	if err != nil {
		return "", fmt.Errorf("is needed: %w", err)
	}
	return dir, nil
}

// urlScheme is what a URL begins with. A path does not, nor does a drive of Windows.
var urlScheme = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]+):`)

// schemeOf returns the scheme of a URL in lower case, "" of a path.
func schemeOf(text string) string {
	if m := urlScheme.FindStringSubmatch(text); m != nil {
		return strings.ToLower(m[1])
	}
	return ""
}

// tmp is the directory for temporary files: --tmp, $TMPDIR if it exists, or that of the database. The image has no /tmp, and
// elsewhere /tmp is often memory.
func (s *settings) tmp() (string, error) {
	if dir := s.String("tmp"); dir != "" {
		if !isDirectory(dir) {
			return "", s.badf("tmp", "%s is not a directory", dir)
		}
		return dir, nil
	}
	if dir := os.Getenv("TMPDIR"); dir != "" && isDirectory(dir) {
		return dir, nil
	}
	if s.String("db") == "" { // bundle verify has no registry
		return firstWritable(os.TempDir(), "."), nil
	}
	at, err := s.location()
	return firstWritable(filepath.Dir(at.DB), os.TempDir()), err
}

// firstWritable is the first of two directories if a file can be made in it, the second otherwise: a database may be on a
// medium that is only read.
func firstWritable(first, second string) string {
	f, err := os.CreateTemp(first, ".registry-")
	if err != nil {
		return second
	}
	f.Close()
	os.Remove(f.Name())
	return first
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (s *settings) checkStorage() error {
	switch word := s.String("storage"); word {
	case "filesystem":
		return nil
	case "s3":
		return s.badf("storage", "s3 is not supported yet; this version keeps blobs in a directory: --storage filesystem")
	default:
		return s.badf("storage", "%q is unknown; it may be: filesystem", word)
	}
}

func (s *settings) databasePath() (string, error) {
	path, err := databasePath(s.String("db"))
	if err != nil {
		return "", s.badf("db", "%w", err)
	}
	return path, nil
}

// databasePath takes the path out of a database URL. A plain path is one too.
func databasePath(url string) (string, error) {
	_, rest, _ := strings.Cut(url, ":")
	switch scheme := schemeOf(url); scheme {
	case "":
		return nonEmptyPath(url)
	case "sqlite", "sqlite3", "file":
		path, _, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "?") // ?mode=rwc is other programs' habit
		if strings.HasPrefix(path, ":") {
			return "", fmt.Errorf("%s: the registry needs a file", url)
		}
		return nonEmptyPath(path)
	case "postgres", "postgresql":
		return "", fmt.Errorf("%s://…: Postgres is not supported yet; this version keeps its database in a file: --db PATH", scheme)
	default: // whose text may have a password
		return "", fmt.Errorf("%s:…: unknown kind of database; it may be a path or sqlite:PATH, and ./ goes before a path with a colon", scheme)
	}
}

func nonEmptyPath(path string) (string, error) {
	if path == "" {
		return "", errors.New("is empty")
	}
	return path, nil
}

// address is where the server listens: --addr, with --host and --port in place of its halves unless --addr was said
// more strongly, on the command line and not in a variable for example.
func (s *settings) address() (string, error) {
	address, _, err := s.namedAddress()
	return address, err
}

// namedAddress is address with the name of the flag or variable that the host came from.
func (s *settings) namedAddress() (address, from string, err error) {
	if path, unix := unixPath(s.String("addr")); unix {
		return s.unixAddress(path)
	}
	host, port, err := net.SplitHostPort(s.String("addr"))
	if err != nil {
		return "", "", s.badf("addr", "%q is neither HOST:PORT nor unix:PATH", s.String("addr"))
	}
	hostFlag, portFlag := "addr", "addr"
	if s.origin["host"] > byDefault && s.origin["host"] >= s.origin["addr"] {
		host, hostFlag = strings.Trim(s.String("host"), "[]"), "host"
	}
	if s.origin["port"] > byDefault && s.origin["port"] >= s.origin["addr"] {
		port, portFlag = s.String("port"), "port"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil { // a name such as http would be one on some machines only
		return "", "", s.badf(portFlag, "port %q is not a number from 0 to 65535", port)
	}
	return net.JoinHostPort(host, port), s.named(hostFlag), nil
}

// unixAddress is namedAddress for a socket, of which there are no halves.
func (s *settings) unixAddress(path string) (address, from string, err error) {
	if path == "" {
		return "", "", s.badf("addr", "unix: the path is empty")
	}
	for _, half := range []string{"host", "port"} {
		if s.origin[half] > byDefault && s.origin[half] >= s.origin["addr"] {
			return "", "", usagef("%s is a socket, which has no %s: leave out %s", s.named("addr"), half, s.named(half))
		}
	}
	return "unix:" + path, s.named("addr"), nil
}

// size reads a number of bytes such as 4MiB.
func (s *settings) size(name string) (int64, error) {
	n, err := humanize.ParseBytes(s.String(name))
	if err != nil || n == 0 || n > 1<<62 {
		return 0, s.badf(name, "%q is not a size such as 4MiB", s.String(name))
	}
	return int64(n), nil
}

func (s *settings) positive(name string) (time.Duration, error) {
	d := s.Duration(name)
	if d <= 0 {
		return 0, s.badf(name, "%s must be more than nothing", d)
	}
	return d, nil
}
