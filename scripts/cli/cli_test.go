//go:build unix

// Package cli tests the registry's binary as people use it: the scripts in testdata run it, and this file has the few
// commands they need beside testscript's own.
package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	_ "registry/server/command" // what is tested is built by the test: this tells its cache when it has changed

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "registry")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // for scripts that run it as another user
			panic(err)
		}
		build := exec.Command("go", "build", "-o", filepath.Join(dir, "registry"), "registry")
		if out, err := build.CombinedOutput(); err != nil {
			panic(string(out))
		}
		// First in PATH: scripts and tests find it as people do, by its name.
		os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
		return m.Run()
	}())
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Values[servers{}] = map[string]*process{}
			top, err := filepath.Abs("../..")
			e.Setenv("repository", top)
			e.Setenv("units", filepath.Join(top, "scripts/systemd"))
			e.Setenv("readme", filepath.Join(top, "README.md"))
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"serve":   serve,
			"end":     end,
			"crash":   crash,
			"hangup":  hangup,
			"logged":  logged,
			"answers": answers,
			"push":    push,
			"envfile": envFile,
		},
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return os.Geteuid() == 0, nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// exits CODE PROGRAM ARG... runs a program that has to end with this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got, exit := 0, (*exec.ExitError)(nil)
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// servers is the key of a script's servers, by name.
type servers struct{}

// serve NAME ARG... runs `registry serve ARG...` until the script ends, waits for its first request to be possible, and
// sets $NAME to its host:port. What it logs goes to NAME.log. With $SERVE_AS it runs as the user of this number.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: serve NAME ARG...")
	}
	name := args[0]
	p, err := launch(ts.MkAbs("."), environment(ts), ts.MkAbs(name+".log"), ts.Getenv("SERVE_AS"), args[1:]...)
	ts.Check(err)
	ts.Defer(p.kill)
	addr, err := p.address()
	ts.Check(err)
	ts.Setenv(name, addr)
	ts.Value(servers{}).(map[string]*process)[name] = p
}

// environment is the script's, which testscript does not hand out otherwise.
func environment(ts *testscript.TestScript) []string {
	ts.Check(ts.Exec("env"))
	return strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
}

// end NAME ends a server, which has to end well. Not stop: testscript has that, and it ends the script.
func end(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value(servers{}).(map[string]*process)[args[0]]
	ts.Check(p.Process.Signal(syscall.SIGTERM))
	if code, err := p.wait(); neg || err != nil || code != 0 {
		ts.Fatalf("exit code %d, %v", code, err)
	}
}

// crash NAME kills a server without a warning.
func crash(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: crash NAME")
	}
	ts.Value(servers{}).(map[string]*process)[args[0]].kill()
}

// hangup NAME sends SIGHUP to a server.
func hangup(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hangup NAME")
	}
	ts.Check(ts.Value(servers{}).(map[string]*process)[args[0]].Process.Signal(syscall.SIGHUP))
}

// logged NAME PATTERN waits until a server has logged a line that matches, or, with !, says that it has not so far.
func logged(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value(servers{}).(map[string]*process)[args[0]]
	if neg {
		if line := p.logged(args[1]); line != "" {
			ts.Fatalf("logged %s", line)
		}
		return
	}
	_, err := p.await(args[1])
	ts.Check(err)
}

// envfile NAME=FILE sets a variable to what a file has, without the newline at its end.
func envFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: envfile NAME=FILE")
	}
	name, file, _ := strings.Cut(args[0], "=")
	ts.Setenv(name, strings.TrimSuffix(ts.ReadFile(file), "\n"))
}

// answers STATUS METHOD URL asks.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: answers STATUS METHOD URL")
	}
	req, err := http.NewRequest(args[1], args[2], nil)
	ts.Check(err)
	answer, err := http.DefaultClient.Do(req)
	ts.Check(err)
	answer.Body.Close()
	if strconv.Itoa(answer.StatusCode) != args[0] {
		ts.Fatalf("answered %s, want %s", answer.Status, args[0])
	}
}

// push ADDR REPO TAG CONTENT [SUBJECT] pushes an image whose config is CONTENT, and sets $digest to the manifest's.
// An empty TAG pushes by digest.
func push(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: push ADDR REPO TAG CONTENT [SUBJECT]")
	}
	subject := ""
	if len(args) > 4 {
		subject = args[4]
	}
	digest, err := pushImage("http://"+args[0], args[1], args[2], args[3], subject)
	ts.Check(err)
	ts.Setenv("digest", digest)
}
