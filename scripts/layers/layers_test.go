// Package layers tests that imports point down, so that every package can be understood with those below it and none of
// those above.
package layers

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layers are the packages of the module from the bottom up. A package may import those of lower layers only; packages of
// one layer do not know each other. A new package gets its place here.
var layers = [][]string{
	{"registry/db", "registry/blobs", "registry/server/match"},
	{"registry/server/registry", "registry/server/remote"},
	{"registry/server/gc", "registry/server/check"},
	{"registry/server/auth", "registry/server/backup", "registry/server/mirror", "registry/server/bundle", "registry/server/takeover",
		"registry/server/certs", "registry/server/clientfile"},
	{"registry/server/admin", "registry/server/doctor", "registry/server/syncer"},
	{"registry/server"},
	{"registry/server/command"},
	{"registry"},
}

// helpers are for tests: what is shipped imports none of them.
var helpers = []string{"registry/db/dbtest", "registry/blobs/blobtest"}

// bans say what the layers do not: who may not import something although it is lower, or from outside.
var bans = []struct {
	importing, imported string // import path; a trailing "/" means everything below
	except              []string
	reason              string
}{
	{"registry/server/", "registry/db", []string{"registry/server/registry", "registry/server/auth", "registry/server/gc", "registry/server/check", "registry/server/backup"},
		"bytes and rows are kept in step in one place; whoever asks the database alone sees what has no right to be seen"},
	{"registry/server/", "registry/blobs", []string{"registry/server/registry", "registry/server/gc", "registry/server/check", "registry/server/backup"},
		"a blob is read through a repository that has it, and package registry checks that"},
	{"registry/", "oras.land/oras-go/v2/registry/remote/auth", []string{"registry/server/mirror", "registry/server/remote"},
		"two clients ask other registries, and look where their credentials go"},
	{"registry/server/remote", "registry/server/registry", nil, "a client of any registry needs to know nothing of this one"},
	{"registry/server/takeover", "net/http", nil, "a directory is taken over without a server; whom it is compared with is the caller's business"},
	{"registry/server/auth", "net/http", nil, "who may do what is a question of the command line, too"},
	{"registry/server/bundle", "net/http", nil, "bundles are for where there is no network"},
	{"registry/server/gc", "net/http", nil, "maintenance works without HTTP"},
	{"registry/server/check", "net/http", nil, "maintenance works without HTTP"},
	{"registry/server/backup", "net/http", nil, "maintenance works without HTTP"},
	{"registry/server/registry", "net/http", nil, "the registry works without HTTP: command line, mirror and bundles are callers too"},
	{"registry/db", "net/http", nil, "the database knows no protocol"},
	{"registry/blobs", "net/http", nil, "a directory knows no protocol"},
	{"registry", "database/sql", []string{"registry/db"}, "queries are methods of db.Tx and exist nowhere else"},
	{"registry/", "database/sql", []string{"registry/db"}, "queries are methods of db.Tx and exist nowhere else"},
	{"registry/", "github.com/jmoiron/sqlx", []string{"registry/db"}, "queries are methods of db.Tx and exist nowhere else"},
	{"registry/", "github.com/julienschmidt/httprouter", []string{"registry/server"}, "there is one table of routes"},
	{"registry/server/syncer", "net/http", nil, "another registry is asked through mirror.Remote, which looks where credentials go"},
	{"registry/", "github.com/urfave/cli/v2", []string{"registry/server/command"}, "flags become structs at the door"},
}

func TestImportsPointDown(t *testing.T) {
	layer := map[string]int{}
	for i, packages := range layers {
		for _, p := range packages {
			layer[p] = i
		}
	}
	for importing, imports := range imports(t) {
		from, known := layer[importing]
		if !known {
			t.Errorf("%s has no layer: say in this file where it belongs", importing)
			continue
		}
		for _, imported := range imports {
			to, ours := layer[imported]
			switch {
			case slices.Contains(helpers, imported):
				t.Errorf("%s imports %s, which is for tests", importing, imported)
			case ours && to >= from:
				t.Errorf("%s imports %s, which is not below it", importing, imported)
			}
			for _, b := range bans {
				if covers(b.importing, importing) && b.imported == imported && !slices.Contains(b.except, importing) {
					t.Errorf("%s imports %s: %s", importing, imported, b.reason)
				}
			}
		}
	}
}

// imports maps each package that is shipped to what it imports itself.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "registry/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if !slices.Contains(helpers, fields[0]) && !strings.HasPrefix(fields[0], "registry/scripts/") {
			all[fields[0]] = fields[1:]
		}
	}
	if len(all) < 5 {
		t.Fatalf("go list knows only %d packages", len(all))
	}
	return all
}

// covers says whether a pattern of the table means the package.
func covers(pattern, pkg string) bool {
	if strings.HasSuffix(pattern, "/") {
		return strings.HasPrefix(pkg+"/", pattern)
	}
	return pkg == pattern
}
