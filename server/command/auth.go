package command

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"registry/server/auth"
	"registry/server/mirror"

	"github.com/urfave/cli/v2"
)

func authFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "auth", EnvVars: env("auth"),
			Usage: "who may do what, a `WORD`: none (everybody everything; the default on loopback) or token (users, see registry user --help)"},
		&cli.StringFlag{Name: "anonymous", EnvVars: env("anonymous"), Value: "pull",
			Usage: "what somebody may do who has not logged in, a `WORD`: pull (from public repositories) or none"},
		&cli.StringFlag{Name: "registration", EnvVars: env("registration"), Value: "closed",
			Usage: "who may make new users, a `WORD`: closed (admins) or open (everybody)"},
		&cli.StringFlag{Name: "default-visibility", EnvVars: env("default-visibility"), Value: "private",
			Usage: "of repositories that a push makes, a `WORD`: private or public"},
		&cli.StringFlag{Name: "token-lifetime", EnvVars: env("token-lifetime", "JWT_LIFETIME_SECONDS"), Value: "5m",
			Usage: "of bearer tokens, a `TIME` from 1m to 24h; a plain number counts seconds"},
		&cli.StringFlag{Name: "jwt-secret", EnvVars: env("jwt-secret", "JWT_SECRET"),
			Usage: "sign bearer tokens with this `SECRET` of at least 32 bytes instead of a key from the database"},
		&cli.StringFlag{Name: "jwt-secret-file", EnvVars: env("jwt-secret-file", "JWT_SECRET_FILE"), Usage: "read --jwt-secret from a `FILE`"},
		&cli.StringFlag{Name: "admin-password-file", EnvVars: env("admin-password-file"),
			Usage: "`FILE` with the password of the user admin, who is made at the first start; without it they get one in a file beside the database"},
		&cli.DurationFlag{Name: "audit-keep", EnvVars: env("audit-keep"), Value: 90 * 24 * time.Hour, DefaultText: "2160h",
			Usage: "remember for this `TIME` who did what"},
	}
}

const minSecret = 32 // bytes

// authOptions reads the flags about users.
func (s *settings) authOptions(opt *serveOptions) (err error) {
	switch word := s.String("auth"); word {
	case "":
	case "none":
		opt.open = true
	case "token":
		opt.open, opt.users = true, true
	case "htpasswd": // of registry:2
		return s.badf("auth", "%q is unknown: say token, and registry user import-htpasswd FILE brings in the users", word)
	default:
		return s.badf("auth", "%q is unknown; it may be: none, token", word)
	}
	if opt.auth.Anonymous, err = s.either("anonymous", "pull", "none"); err != nil {
		return err
	}
	if opt.auth.Registration, err = s.either("registration", "open", "closed"); err != nil {
		return err
	}
	if opt.auth.TokenLifetime, err = s.tokenLifetime(); err != nil {
		return err
	}
	secret, err := s.secret("jwt-secret")
	if err != nil {
		return err
	}
	if secret != "" && len(secret) < minSecret {
		return s.badf("jwt-secret", "has %d bytes; whoever guesses it may do everything, so it needs at least %d", len(secret), minSecret)
	}
	if secret != "" {
		opt.auth.Secret = []byte(secret)
	}
	if opt.admin, err = s.readSecret("admin-password-file"); err != nil || opt.admin == "" {
		return err
	}
	if err := auth.CheckNewPassword(auth.FirstAdmin, opt.admin); err != nil {
		return s.bad("admin-password-file", err)
	}
	return nil
}

// either reads a flag that has one of two values, and says whether it is the first.
func (s *settings) either(name, yes, no string) (bool, error) {
	switch word := s.String(name); word {
	case yes, no:
		return word == yes, nil
	default:
		return false, s.badf(name, "%q is unknown; it may be: %s, %s", word, yes, no)
	}
}

func (s *settings) defaultVisibility() (public bool, err error) {
	return s.either("default-visibility", "public", "private")
}

func (s *settings) tokenLifetime() (time.Duration, error) {
	text := s.String("token-lifetime")
	d, err := time.ParseDuration(text)
	if err != nil {
		d, err = time.ParseDuration(text + "s")
	}
	if err != nil || d < time.Minute || d > 24*time.Hour {
		return 0, s.badf("token-lifetime", "%q is not a time from 1m to 24h", text)
	}
	return d, nil
}

// secret reads a flag or the file that another flag names in its place.
func (s *settings) secret(name string) (string, error) {
	value, file := s.String(name), s.String(name+"-file")
	if value != "" && file != "" {
		return "", usagef("%s and %s both say it: one is enough", s.named(name), s.named(name+"-file"))
	}
	if file == "" {
		return value, nil
	}
	return s.readSecret(name + "-file")
}

// readSecret reads the file that a flag names, without the newline that an editor left at its end.
func (s *settings) readSecret(flag string) (string, error) {
	file := s.String(flag)
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", s.bad(flag, err)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if secret == "" {
		return "", s.badf(flag, "%s is empty", file)
	}
	return secret, nil
}

// startAuth prepares the users. The password of an admin that it makes goes to a file beside the database that only its
// owner can read: what the server prints may be kept, and read by others.
func (p *Program) startAuth(ctx context.Context, opened *Opened, opt serveOptions, log *slog.Logger) (*auth.Authority, error) {
	opt.auth.Log, opt.auth.Taken = log, mirror.Prefixes(opt.mirror.Upstreams)
	a := opened.Auth(opt.auth)
	password, file := opt.admin, ""
	has, err := a.HasUsers(ctx)
	if err == nil && !has && password == "" {
		password, file = rand.Text(), opt.location.DB+"-admin-password"
		err = writeSecret(file, password+"\n") // before there is a user whose password is in no file
	}
	if err != nil {
		return nil, err
	}
	made, err := a.Start(ctx, password)
	if err != nil || file == "" {
		return a, err
	}
	if made == "" { // another process was first
		return a, os.Remove(file)
	}
	log.Warn("the first start made a user; log in, change the password and remove the file", "user", auth.FirstAdmin, "password-file", absolute(file))
	return a, nil
}

// writeSecret writes a file that only its owner can read, in place of what has its name.
func writeSecret(path, text string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
