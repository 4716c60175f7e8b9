// Command orasclient drives a registry through the oras-go library for the end-to-end run, one
// operation an invocation, over plain HTTP. It stands in for the oras command, and like that one keeps
// logins in Docker's configuration file.
// Its resume operation speaks HTTP itself: no client exposes a push that is cut and taken up again.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"
)

const artifactType = "application/vnd.example.e2e"

// operation is one command of the program: what it takes and what it does.
type operation struct {
	name  string
	usage string
	args  int
	run   func(ctx context.Context, args []string) error
}

var operations = []operation{
	{"login", "HOST USER PASSWORD", 3, login},
	{"logout", "HOST", 1, logout},
	{"push", "REF FILE", 2, push},
	{"mount", "REF FILE REPOSITORY (to mount blobs from)", 3, pushMounting},
	{"pull", "REF DIR", 2, pull},
	{"attach", "REF FILE TYPE", 3, attach},
	{"discover", "REF TYPE", 2, discover},
	{"copy", "SOURCE TARGET (with its referrers)", 2, copyRecursive},
	{"fromtar", "FILE NAME TARGET (with its referrers)", 3, fromTar},
	{"tags", "REPOSITORY", 1, tags},
	{"repos", "HOST", 1, repos},
	{"delete", "REF", 1, deleteManifest},
	{"resume", "HOST/REPOSITORY SERVER-PID MEGABYTES", 3, resume},
}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "orasclient:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	for _, op := range operations {
		if len(args) > 0 && args[0] == op.name && len(args)-1 == op.args {
			return op.run(ctx, args[1:])
		}
	}
	var usage strings.Builder
	for _, op := range operations {
		fmt.Fprintf(&usage, "\n  %s %s", op.name, op.usage)
	}
	return errors.New("usage:" + usage.String())
}

// open returns the repository of ref, and the tag or digest in it.
func open(ref string) (*remote.Repository, string, error) {
	repo, err := remote.NewRepository(ref)
	if err != nil {
		return nil, "", err
	}
	repo.PlainHTTP = true
	repo.Client, err = client()
	return repo, repo.Reference.Reference, err
}

// client returns the HTTP client of the library, with the logins that are kept.
func client() (*auth.Client, error) {
	store, err := logins()
	if err != nil {
		return nil, err
	}
	return &auth.Client{Client: retry.DefaultClient, Cache: auth.NewCache(), Credential: credentials.Credential(store)}, nil
}

func logins() (credentials.Store, error) {
	return credentials.NewStoreFromDocker(credentials.StoreOptions{AllowPlaintextPut: true})
}

// login asks the registry whether user and password are right and keeps them.
func login(ctx context.Context, args []string) error {
	store, err := logins()
	if err != nil {
		return err
	}
	reg, err := remote.NewRegistry(args[0])
	if err != nil {
		return err
	}
	reg.PlainHTTP = true
	return credentials.Login(ctx, store, reg, auth.Credential{Username: args[1], Password: args[2]})
}

func logout(ctx context.Context, args []string) error {
	store, err := logins()
	if err != nil {
		return err
	}
	return credentials.Logout(ctx, store, args[0])
}

// push packs one file as an artifact, pushes it and prints its digest.
func push(ctx context.Context, args []string) error {
	repo, tag, err := open(args[0])
	if err != nil {
		return err
	}
	desc, err := packAndCopy(ctx, repo, args[1], artifactType, nil, tag, "")
	if err != nil {
		return err
	}
	fmt.Println(desc.Digest)
	return nil
}

// pushMounting is push that asks the registry to take blobs from another of its repositories. The
// library uploads what it is not given.
func pushMounting(ctx context.Context, args []string) error {
	repo, tag, err := open(args[0])
	if err != nil {
		return err
	}
	_, err = packAndCopy(ctx, repo, args[1], artifactType, nil, tag, args[2])
	return err
}

// attach pushes a file as a referrer of ref and prints the referrer's digest.
func attach(ctx context.Context, args []string) error {
	repo, tag, err := open(args[0])
	if err != nil {
		return err
	}
	subject, err := repo.Resolve(ctx, tag)
	if err != nil {
		return err
	}
	desc, err := packAndCopy(ctx, repo, args[1], args[2], &subject, "", "")
	if err != nil {
		return err
	}
	fmt.Println(desc.Digest)
	return nil
}

// packAndCopy builds an artifact of one file beside it and copies it to the repository, under the
// tag or, if that is empty, under its digest alone. Blobs are mounted from the repository from, if
// there is one.
func packAndCopy(ctx context.Context, repo *remote.Repository, path, kind string, subject *ocispec.Descriptor, tag, from string) (ocispec.Descriptor, error) {
	dir, err := os.MkdirTemp("", "pack")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer os.RemoveAll(dir)
	store, err := file.New(dir)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer store.Close()
	layer, err := store.Add(ctx, "artifact", "application/octet-stream", path)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, kind,
		oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}, Subject: subject})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if tag == "" {
		return desc, oras.CopyGraph(ctx, store, repo, desc, oras.DefaultCopyGraphOptions)
	}
	if err := store.Tag(ctx, desc, tag); err != nil {
		return ocispec.Descriptor{}, err
	}
	options := oras.DefaultCopyOptions
	if from != "" {
		options.MountFrom = func(context.Context, ocispec.Descriptor) ([]string, error) { return []string{from}, nil }
	}
	return oras.Copy(ctx, store, tag, repo, tag, options)
}

// pull writes the artifact's file to DIR/artifact.
func pull(ctx context.Context, args []string) error {
	repo, tag, err := open(args[0])
	if err != nil {
		return err
	}
	store, err := file.New(args[1])
	if err != nil {
		return err
	}
	defer store.Close()
	_, err = oras.Copy(ctx, repo, tag, store, tag, oras.DefaultCopyOptions)
	return err
}

// discover prints the digest of each referrer of ref that has the artifact type.
func discover(ctx context.Context, args []string) error {
	repo, tag, err := open(args[0])
	if err != nil {
		return err
	}
	subject, err := repo.Resolve(ctx, tag)
	if err != nil {
		return err
	}
	return repo.Referrers(ctx, subject, args[1], func(page []ocispec.Descriptor) error {
		for _, desc := range page {
			fmt.Println(desc.Digest)
		}
		return nil
	})
}

// copyRecursive copies an artifact and everything that refers to it.
func copyRecursive(ctx context.Context, args []string) error {
	from, source, err := open(args[0])
	if err != nil {
		return err
	}
	to, target, err := open(args[1])
	if err != nil {
		return err
	}
	_, err = oras.ExtendedCopy(ctx, from, source, to, target, oras.DefaultExtendedCopyOptions)
	return err
}

// fromTar copies out of an OCI layout in a tar.
func fromTar(ctx context.Context, args []string) error {
	from, err := oci.NewFromTar(ctx, args[0])
	if err != nil {
		return err
	}
	to, target, err := open(args[2])
	if err != nil {
		return err
	}
	_, err = oras.ExtendedCopy(ctx, from, args[1], to, target, oras.DefaultExtendedCopyOptions)
	return err
}

// tags prints the tags of a repository and refuses a list that is out of order.
func tags(ctx context.Context, args []string) error {
	repo, _, err := open(args[0])
	if err != nil {
		return err
	}
	list, err := registry.Tags(ctx, repo)
	if err != nil {
		return err
	}
	if !slices.IsSorted(list) {
		return fmt.Errorf("tags out of order: %q", list)
	}
	fmt.Println(strings.Join(list, "\n"))
	return nil
}

// repos prints the names of all repositories.
func repos(ctx context.Context, args []string) error {
	reg, err := remote.NewRegistry(args[0])
	if err != nil {
		return err
	}
	reg.PlainHTTP = true
	if reg.Client, err = client(); err != nil {
		return err
	}
	list, err := registry.Repositories(ctx, reg)
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(list, "\n"))
	return nil
}

// deleteManifest removes the manifest that ref names, whatever tags it has.
func deleteManifest(ctx context.Context, args []string) error {
	repo, tag, err := open(args[0])
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, tag)
	if err != nil {
		return err
	}
	return repo.Delete(ctx, desc)
}
