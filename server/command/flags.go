package command

import (
	"slices"
	"strings"
	"time"

	"registry/server/gc"

	"github.com/urfave/cli/v2"
)

// The flags, with their variables and the names that other registries gave them. The table in README.md is made from
// these; a test compares the two.

// env is the variable of a flag, and its aliases.
func env(name string, aliases ...string) []string {
	return append([]string{"REGISTRY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}, aliases...)
}

func envFileFlag() cli.Flag {
	return &cli.StringFlag{Name: "env-file", EnvVars: env("env-file"),
		Usage: "read variables from `FILE`; those of the environment win"}
}

func locationFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "db", Aliases: []string{"database-url"}, EnvVars: env("db", "DATABASE_URL"), Value: "./reg.db",
			Usage: "SQLite database: a `PATH`, or sqlite:PATH"},
		&cli.StringFlag{Name: "blobs", Aliases: []string{"root", "storage-path"},
			EnvVars:     env("blobs", "OCI_REGISTRY_ROOTDIR", "STORAGE_PATH", "FERRO_OCI_STORAGE_DIR"),
			DefaultText: "PATH-blobs beside the database, or blobs if an older version made that", Usage: "`DIRECTORY` of blobs"},
		&cli.StringFlag{Name: "storage", Aliases: []string{"s"}, EnvVars: env("storage", "OCI_REGISTRY_STORAGE", "STORAGE_DRIVER", "STORAGE_TYPE"),
			Value: "filesystem", Usage: "`KIND` of blob storage; so far only filesystem"},
		&cli.BoolFlag{Name: "allow-network-fs", EnvVars: env("allow-network-fs"),
			Usage: "accept a network file system, where neither locks nor flushes can be relied on"},
	}
}

func addressFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "addr", EnvVars: env("addr", "FERRO_OCI_LISTEN"), Value: "127.0.0.1:5000",
			Usage: "`HOST:PORT` of the server, or unix:PATH; port 0 takes a free one"},
		&cli.StringFlag{Name: "host", EnvVars: env("host", "OCI_REGISTRY_URL"), Usage: "`HOST` in place of the one in --addr"},
		&cli.StringFlag{Name: "port", Aliases: []string{"p"}, EnvVars: env("port", "OCI_REGISTRY_PORT"),
			Usage: "`PORT` in place of the one in --addr"},
	}
}

func serveFlags() []cli.Flag {
	flags := slices.Concat(locationFlags(), addressFlags(), tlsFlags(), certificateFlags(), proxyFlags(), browserFlags(), authFlags(), mirrorFlags())
	return append(flags,
		&cli.BoolFlag{Name: "check", Usage: "say what is wrong with flags, variables and the files they name, and do not serve"},
		&cli.BoolFlag{Name: "read-only", EnvVars: env("read-only"), Usage: "refuse everything that changes the registry"},
		allowSparseFlag(),
		&cli.DurationFlag{Name: "upload-timeout", EnvVars: env("upload-timeout"), Value: 24 * time.Hour, DefaultText: "24h",
			Usage: "expire uploads that have been idle for `TIME`"},
		&cli.IntFlag{Name: "max-uploads", EnvVars: env("max-uploads"), Value: 10_000, Usage: "open uploads a repository may have"},
		&cli.StringFlag{Name: "max-manifest", EnvVars: env("max-manifest"), Value: "4MiB", Usage: "largest manifest accepted, a `SIZE`"},
		&cli.DurationFlag{Name: "body-idle-timeout", EnvVars: env("body-idle-timeout"), Value: time.Minute, DefaultText: "1m",
			Usage: "give up on a request whose body brings no byte for this `TIME`; there is no limit on the whole"},
		&cli.IntFlag{Name: "max-connections", EnvVars: env("max-connections"), DefaultText: "half of the files that the process may open, 10,000 at most",
			Usage: "open connections; at the `LIMIT`, the longest waiting one is closed for each new one"},
		&cli.DurationFlag{Name: "keep-alive", EnvVars: env("keep-alive"), Value: 2 * time.Minute, DefaultText: "2m",
			Usage: "keep a connection that waits for its next request for this `TIME`: longer than a load balancer in front does (Google's: 10m)"},
		&cli.DurationFlag{Name: "drain-timeout", EnvVars: env("drain-timeout"), Value: 30 * time.Second, DefaultText: "30s",
			Usage: "on SIGTERM, let requests finish for this `TIME`"},
		undoFlag(),
		&cli.DurationFlag{Name: "journal-interval", EnvVars: env("journal-interval"), Value: 2 * time.Second, DefaultText: "2s",
			Usage: "copy what changed to the journal beside the blobs, which registry rebuild reads, every `TIME`"},
		&cli.StringFlag{Name: "gc-interval", EnvVars: env("gc-interval"),
			Usage: "collect garbage on this `SCHEDULE`: a time between two runs such as 6h, or cron's five fields; off when empty"},
		collectFlags("gc-")[0], collectFlags("gc-")[1], scrubFlags()[0], scrubFlags()[1],
		&cli.StringFlag{Name: "debug-addr", EnvVars: env("debug-addr"), Usage: "loopback `HOST:PORT` for Go's profiler; off when empty"},
		&cli.StringFlag{Name: "log-format", EnvVars: env("log-format"), Value: "auto", Usage: "text, json, or auto: text on a terminal, else json"},
		&cli.StringFlag{Name: "log-level", EnvVars: env("log-level"), Value: "info", Usage: "debug, info, warn or error"},
	)
}

// undoFlag belongs to whatever deletes, and to collection, which ends the window.
func undoFlag() cli.Flag {
	return &cli.DurationFlag{Name: "undo-window", EnvVars: env("undo-window"), Value: 168 * time.Hour, DefaultText: "168h",
		Usage: "deletions and moved tags can be undone for this `TIME`; 0: not at all"}
}

// collectFlags are those of gc; serve has the same with a prefix.
func collectFlags(prefix string) []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{Name: prefix + "grace", EnvVars: env("gc-grace"), Value: gc.DefaultGrace, DefaultText: "24h",
			Usage: "leave what a client was told is there for this `TIME`, even if nothing refers to it yet; at least 1h"},
		&cli.StringFlag{Name: prefix + "untagged-after", EnvVars: env("gc-untagged-after"),
			Usage: "also remove manifests that no tag, index or subject has held for this `TIME`, such as 168h; off when empty"},
	}
}

func gcFlags() []cli.Flag {
	return append(collectFlags(""),
		&cli.DurationFlag{Name: "undo-window", EnvVars: env("undo-window"), Value: 168 * time.Hour, DefaultText: "168h; with --force no more than the grace",
			Usage: "what was deleted longer than this `TIME` ago is gone for good"},
		&cli.DurationFlag{Name: "upload-timeout", EnvVars: env("upload-timeout"), Value: 24 * time.Hour, DefaultText: "24h",
			Usage: "expire uploads that have been idle for `TIME`"},
		maxDurationFlag(),
		tmpFlag("the copy of the database that --dry-run works on", besideDatabase),
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would go and why, remove nothing"},
		&cli.BoolFlag{Name: "compact", Usage: "write the database anew afterwards, without its free pages: pushes wait for that, and it takes room for two copies"},
		&cli.BoolFlag{Name: "force", Usage: "accept a --grace under 1h: pushes under way may fail and have to be made again"},
	)
}

func maxDurationFlag() cli.Flag {
	return &cli.DurationFlag{Name: "max-duration", DefaultText: "no limit", Usage: "stop after this `TIME`, in good order; the next run goes on"}
}

// whyFlags are those of the collection that is asked about.
func whyFlags() []cli.Flag {
	return append(collectFlags(""), undoFlag())
}

func checkFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "read-data", Usage: "read every blob and compare it with its digest"},
		&cli.DurationFlag{Name: "skip-verified", DefaultText: "none", Usage: "do not read blobs again that were found good within this `TIME`: a check that was stopped goes on"},
		&cli.StringFlag{Name: "rate", Usage: "read no more than this `SIZE` a second"},
		&cli.IntFlag{Name: "parallel", Value: 2, Usage: "blobs read at a time"},
		maxDurationFlag(),
		&cli.BoolFlag{Name: "repair", Usage: "tell clients that damaged blobs are not there, so that the next push heals them"},
		allowSparseFlag(),
	}
}

func allowSparseFlag() cli.Flag {
	return &cli.StringFlag{Name: "allow-sparse", EnvVars: env("allow-sparse"), Value: "none",
		Usage: "accept manifests whose content is not there: none, index (children of an index) or all (layers too)"}
}

func scrubFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "scrub-interval", EnvVars: env("scrub-interval"),
			Usage: "read all blobs and compare them with their digests on this `SCHEDULE`, as for --gc-interval; off when empty"},
		&cli.StringFlag{Name: "scrub-rate", EnvVars: env("scrub-rate"), Value: "50MiB", Usage: "read no more than this `SIZE` a second then"},
	}
}

func tagRestoreFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "at", Usage: "what it pointed at then: a `TIME` such as 2026-01-31T12:00:00Z, or 36h for so long ago"},
		&cli.StringFlag{Name: "to", Usage: "a `DIGEST` of its log"},
	}
}

func backupFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "copy", Usage: "copy bytes even where a hard link would do"},
		&cli.BoolFlag{Name: "verify", Usage: "read also what the backup has from before"},
	}
}

func replaceFlag(why string) []cli.Flag {
	return []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "if there is a database, keep it as PATH.before-" + why + "-TIME"}}
}

func restoreFlags() []cli.Flag {
	return append(replaceFlag("restore"), &cli.BoolFlag{Name: "end-tokens", Usage: "end every API token, refresh token and bearer token of the backup: some may have been revoked since"})
}

func rebuildFlags() []cli.Flag {
	return append(replaceFlag("rebuild"), &cli.BoolFlag{Name: "read-data", Usage: "read every blob now; otherwise each is read when it is first pulled"})
}

func takeoverFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "link", Usage: "give the files a second name, which takes no space and no time; the default"},
		&cli.BoolFlag{Name: "copy", Usage: "copy the bytes, and verify them on the way"},
		&cli.BoolFlag{Name: "move", Usage: "as --link, and in the end remove from DIR what was taken, unless something that was not taken refers to it"},
		&cli.BoolFlag{Name: "read-data", Usage: "read every blob now; otherwise each is read when it is first pulled"},
		&cli.StringFlag{Name: "repo", Usage: "only repositories that match a `GLOB`"},
		allowSparseFlag(),
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be taken and what could not, take nothing"},
		tmpFlag("the database of --dry-run where there is no registry", besideDatabase),
		&cli.StringFlag{Name: "verify-against", Usage: "then compare every tag with those of the registry at `URL`, which still serves DIR"},
		&cli.StringFlag{Name: "verify-credentials", Usage: "a `FILE` with user:password for --verify-against"},
	}
}

// remoteFlags are of commands that speak to a registry somewhere.
func remoteFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "user", Usage: "log in with this `NAME`; without it, as docker login left it in config.json"},
		&cli.BoolFlag{Name: "password-stdin", Usage: "read the password of --user from standard input"},
		&cli.StringFlag{Name: "ca", Usage: "trust the certificates in this PEM `FILE`, and no others"},
	}
}

func pushFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "chunk", Value: "64MiB", Usage: "send this `SIZE` in a request; less if a proxy on the way lets only less pass"},
		&cli.IntFlag{Name: "parallel", Value: 3, Usage: "blobs sent at a time"},
		&cli.StringFlag{Name: "artifact-type", Usage: "make an artifact of this `TYPE` of the files, such as application/vnd.example.report"},
	}
}

func doctorFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "repo", DefaultText: "doctor/ and a random name", Usage: "push to this `REPO`"},
		&cli.StringFlag{Name: "size", Value: "64MiB", Usage: "push a blob of this `SIZE`"},
	}
}

func mirrorConfigFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "for", Usage: "the `CLIENT`: containerd, docker, podman, k3s, talos or openshift"},
		&cli.StringSliceFlag{Name: "upstream", DefaultText: "docker.io", Usage: "a `REGISTRY` that the mirror stands for, such as docker.io; may be said several times"},
		&cli.StringFlag{Name: "ca", Usage: "PEM `FILE` of the CA of the mirror's certificate, where the client has it"},
		&cli.BoolFlag{Name: "plain-http", Usage: "the mirror has no TLS"},
	}
}

func healthcheckFlags() []cli.Flag {
	return append(slices.Concat(addressFlags(), tlsFlags()),
		&cli.BoolFlag{Name: "writes", Usage: "fail also when the registry can only be read from"},
		&cli.DurationFlag{Name: "timeout", Value: 3 * time.Second, DefaultText: "3s", Usage: "wait this `TIME` for the answer"})
}

func jsonFlag() []cli.Flag {
	return []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON"}}
}

func removeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "print what would go, remove nothing"},
		undoFlag(),
	}
}

func ifMatchFlags() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{Name: "if-match", Usage: "only if the tag still points at this `DIGEST`"}}
}

func conditionFlags() []cli.Flag {
	return append(ifMatchFlags(), &cli.BoolFlag{Name: "if-absent", Usage: "only if there is no such tag yet"})
}

func copyFlags() []cli.Flag {
	return []cli.Flag{&cli.BoolFlag{Name: "no-referrers", Usage: "leave signatures, SBOMs and other referrers behind"}}
}

func exportFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`; - is stdout"},
		&cli.GenericFlag{Name: "repo", Value: new(words), DefaultText: "all", Usage: "repositories that match this `GLOB`; may be repeated"},
		&cli.GenericFlag{Name: "tag", Value: new(words), DefaultText: "all", Usage: "tags that match this `GLOB`; may be repeated"},
		&cli.StringSliceFlag{Name: "platform", DefaultText: "all",
			Usage: "of an index, only the image for `OS/ARCH[/VARIANT]`, which gets its tag; if repeated, the index stays as it is and lacks the others"},
		&cli.StringFlag{Name: "have", Usage: "leave out what the receipt in `FILE` says the receiver has"},
		&cli.BoolFlag{Name: "no-referrers", Usage: "leave signatures, SBOMs and other referrers behind"},
		&cli.BoolFlag{Name: "docker", Usage: "add what docker load reads"},
		&cli.StringFlag{Name: "split", Usage: "in parts of this `SIZE`: FILE.001, FILE.002 and so on, and FILE.parts.json, which knows their checksums"},
		&cli.BoolFlag{Name: "zstd", Usage: "compress the whole; other tools do not read it then"},
		&cli.StringFlag{Name: "sign-key", Usage: "sign with the Ed25519 private key in the PEM `FILE`"},
		tmpFlag("all manifests", besideDatabase),
	}
}

func verifyFlags() []cli.Flag {
	return append(verifyKeyFlags(), tmpFlag("all manifests, and the whole of what comes from stdin", "that of the system, else the working directory"))
}

func verifyKeyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "verify-key", Usage: "refuse what is not signed by the Ed25519 public key in the PEM `FILE`"},
	}
}

const besideDatabase = "beside the database"

// tmpFlag is of commands that need room for a moment.
func tmpFlag(what, otherwise string) cli.Flag {
	return &cli.StringFlag{Name: "tmp", EnvVars: env("tmp"), DefaultText: "$TMPDIR if it exists, else " + otherwise,
		Usage: "`DIRECTORY` for temporary files: " + what}
}

func importFlags() []cli.Flag {
	return append(verifyKeyFlags(),
		tmpFlag("all manifests, and the whole of what comes from stdin", besideDatabase),
		&cli.GenericFlag{Name: "map", Value: new(words), Usage: "`OLD=NEW` puts repository OLD into NEW; old/=new/ all below; =NEW[:TAG] what has no name; may be repeated"},
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "check everything, import nothing"},
		allowSparseFlag(),
	)
}
