package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"registry/server/bundle"
	"registry/server/registry"

	"github.com/dustin/go-humanize"
)

// Bundles carry content where no network leads.

func (p *Program) export(ctx context.Context, s *settings) (err error) {
	if s.NArg() > 0 {
		return usagef("export takes no arguments, got %q: choose with --repo and --tag", s.Args().First())
	}
	images, err := exported(s)
	if err != nil {
		return err
	}
	opt, err := exportOptions(s)
	if err != nil {
		return err
	}
	split, err := s.split()
	if err != nil {
		return err
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	progress := p.progress()
	opt.Progress = func(r bundle.ExportReport) { progress.show("%s of %s", humanSize(r.Written), humanSize(r.Bytes)) }
	write := func(to io.Writer) (report bundle.ExportReport, err error) {
		err = compressed(to, s.Bool("zstd"), func(to io.Writer) error {
			report, err = bundle.Export(ctx, reg, forEach(images, func(what pattern) iter.Seq2[bundle.Image, error] { return chosen(ctx, reg, what) }), opt, to)
			return err
		})
		progress.clear()
		return report, err
	}
	if s.String("output") != "-" {
		return p.exportFile(s, split, write)
	}
	if isTerminal(p.Stdout) {
		return usageError{bundle.ErrTerminal}
	}
	report, err := write(raw(p.Stdout))
	if err != nil {
		return err
	}
	return p.printExport(p.Stderr, s, report, nil)
}

// exportFile writes a bundle to the file, or the files, that --output names.
func (p *Program) exportFile(s *settings, split int64, write func(io.Writer) (bundle.ExportReport, error)) error {
	out, err := bundle.Create(s.String("output"), split, asRoot)
	if err != nil {
		return err
	}
	report, err := write(out)
	if err != nil {
		out.Abort()
		return err
	}
	parts, err := out.Commit()
	if err != nil {
		return err
	}
	if !out.IsFile() { // it may be the standard output under another name
		return p.printExport(p.Stderr, s, report, nil)
	}
	return p.printExport(p.Stdout, s, report, parts)
}

// compressed hands to to write, behind a compressor if there shall be one.
func compressed(to io.Writer, compress bool, write func(io.Writer) error) error {
	if !compress {
		return write(to)
	}
	z, err := bundle.Compress(to)
	if err != nil {
		return err
	}
	err = write(z)
	return errors.Join(err, z.Close())
}

// exported reads which images are meant: those of every --repo, as far as a --tag matches.
func exported(s *settings) (all []pattern, err error) {
	repos, tags := *s.Generic("repo").(*words), *s.Generic("tag").(*words)
	if len(repos) == 0 {
		repos = []string{"**"}
	}
	if len(tags) == 0 {
		tags = []string{"*"}
	}
	for _, repo := range repos {
		for _, tag := range tags {
			what, err := parsePattern(repo + ":" + tag)
			if err != nil {
				return nil, err
			}
			all = append(all, what)
		}
	}
	return all, nil
}

// chosen yields the images of a pattern.
func chosen(ctx context.Context, reg *registry.Registry, what pattern) iter.Seq2[bundle.Image, error] {
	return inEach(ctx, reg, what.repo, func(repo string) iter.Seq2[bundle.Image, error] {
		return func(yield func(bundle.Image, error) bool) {
			for tag, err := range tags(ctx, reg, repo, what.tag) {
				if !yield(bundle.Image{Repo: registry.RepoName(repo), Tag: registry.Tag(tag)}, err) {
					return
				}
			}
		}
	})
}

func exportOptions(s *settings) (opt bundle.ExportOptions, err error) {
	opt = bundle.ExportOptions{NoReferrers: s.Bool("no-referrers"), Docker: s.Bool("docker"), AsCaller: asRoot}
	if opt.Tmp, err = s.tmp(); err != nil {
		return opt, err
	}
	for _, text := range s.StringSlice("platform") {
		platform, err := bundle.ParsePlatform(text)
		if err != nil {
			return opt, usagef("--platform: %w", err)
		}
		opt.Platforms = append(opt.Platforms, platform)
	}
	if path := s.String("have"); path != "" {
		if opt.Have, err = readReceipt(path); err != nil {
			return opt, err
		}
	}
	if path := s.String("sign-key"); path != "" {
		opt.SignKey, err = bundle.ReadSigningKey(path)
	}
	if opt.Docker && opt.Have != nil {
		return opt, usagef("--docker and --have: docker load wants whole images")
	}
	return opt, err
}

func readReceipt(path string) (*bundle.Receipt, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	receipt, err := bundle.ReadReceipt(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return receipt, nil
}

// minSplit keeps the number of parts within what their names can count.
const minSplit = 1 << 20

func (s *settings) split() (int64, error) {
	if s.String("output") == "" {
		return 0, usagef("export wants --output FILE, or - for stdout")
	}
	if s.String("split") == "" {
		return 0, nil
	}
	size, err := humanize.ParseBytes(s.String("split"))
	if err != nil || size < minSplit || size > 1<<62 {
		return 0, usagef("--split %q: want a size of at least 1MiB, such as 4GiB", s.String("split"))
	}
	if s.String("output") == "-" {
		return 0, usagef("--split wants a file to name the parts after")
	}
	return int64(size), nil
}

// exportResult is what export prints as JSON.
type exportResult struct {
	bundle.ExportReport
	Parts []bundle.Part `json:"parts,omitempty"`
}

func (p *Program) printExport(out io.Writer, s *settings, r bundle.ExportReport, parts []bundle.Part) error {
	if s.Bool("json") {
		return printJSON(out, exportResult{r, parts})
	}
	for _, image := range r.Skipped {
		fmt.Fprintf(p.Stderr, "registry: %s has no image for this platform\n", image)
	}
	_, err := fmt.Fprintf(out, "exported %d repositories, %d tags, %d manifests, %d blobs (%s)", r.Repositories, r.Tags, r.Manifests, r.Blobs, humanSize(r.Bytes))
	if r.Required > 0 {
		fmt.Fprintf(out, "; the receiver has %d more manifests and blobs", r.Required)
	}
	if len(parts) > 1 {
		fmt.Fprintf(out, "; in %d parts", len(parts))
	}
	fmt.Fprintln(out)
	return err
}

func (p *Program) importBundle(ctx context.Context, s *settings) (err error) {
	if s.NArg() == 0 {
		return usagef("import wants a FILE, its parts, a DIRECTORY, or - for stdin")
	}
	opt := bundle.ImportOptions{DryRun: s.Bool("dry-run"), Stdin: p.Stdin, AsCaller: asRoot}
	if opt.Tmp, err = s.tmp(); err != nil {
		return err
	}
	if opt.Names, err = bundle.ParseNames(*s.Generic("map").(*words)); err != nil {
		return usagef("--map %w", err)
	}
	if opt.Sparse, err = s.sparse(); err != nil {
		return err
	}
	if path := s.String("verify-key"); path != "" {
		if opt.VerifyKey, err = bundle.ReadVerifyingKey(path); err != nil {
			return err
		}
	}
	reg, stores, err := p.openExistingWith(ctx, s, registry.Config{Sparse: opt.Sparse}, onlyDirectory(s.Args().Slice()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	progress := p.progress()
	opt.Progress = func(r bundle.ImportReport) { progress.show("%d blobs, %s", r.Stored, humanSize(r.Bytes)) }
	report, err := bundle.Import(ctx, reg, s.Args().Slice(), opt)
	progress.clear()
	if err != nil {
		return p.explainImport(err)
	}
	return p.printImport(s, report)
}

// onlyDirectory is the path if there is one, of a directory, and "" otherwise.
func onlyDirectory(paths []string) string {
	if info, err := os.Stat(paths[0]); len(paths) > 1 || err != nil || !info.IsDir() {
		return ""
	}
	return paths[0]
}

// explainImport names everything that is missing, a line each, and says how to go on.
func (p *Program) explainImport(err error) error {
	var missing bundle.MissingError
	switch {
	case errors.As(err, &missing):
		for _, m := range missing {
			fmt.Fprintf(p.Stderr, "missing: %s@%s\n", m.Repo, m.Digest)
		}
		return fmt.Errorf("nothing was imported: %d manifests or blobs are neither in the bundle nor in their repository here or a public one; "+
			"export again with a receipt of this registry (registry receipt)", len(missing))
	case errors.Is(err, bundle.ErrNameless):
		return fmt.Errorf("%w; say --map =REPO, or --map =REPO:TAG", err)
	}
	return err
}

func (p *Program) printImport(s *settings, r bundle.ImportReport) error {
	if s.Bool("json") {
		return printJSON(p.Stdout, r)
	}
	verb := "imported"
	if s.Bool("dry-run") {
		verb = "would import"
	}
	_, err := fmt.Fprintf(p.Stdout, "%s %d repositories, %d tags, %d manifests; %d blobs stored (%s), %d mounted, %d there before\n",
		verb, r.Repositories, r.Tags, r.Manifests, r.Stored, humanSize(r.Bytes), r.Mounted, r.Present)
	return err
}

func (p *Program) receipt(ctx context.Context, s *settings) (err error) {
	patterns, err := repoPatterns(s.Args().Slice())
	if err != nil {
		return err
	}
	if len(patterns) == 0 {
		patterns = []pattern{{repo: "**"}}
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	names := forEach(patterns, func(what pattern) iter.Seq2[string, error] { return repositories(ctx, reg, what.repo) })
	return bundle.WriteReceipt(ctx, reg, names, p.Stdout)
}

func (p *Program) bundleVerify(ctx context.Context, s *settings) (err error) {
	if s.NArg() == 0 {
		return usagef("bundle verify wants a FILE, its parts, a DIRECTORY, or - for stdin")
	}
	opt := bundle.VerifyOptions{Stdin: p.Stdin}
	if opt.Tmp, err = s.tmp(); err != nil {
		return err
	}
	if path := s.String("verify-key"); path != "" {
		if opt.Key, err = bundle.ReadVerifyingKey(path); err != nil {
			return err
		}
	}
	progress := p.progress()
	opt.Progress = func(r bundle.VerifyReport) { progress.show("%d blobs, %s", r.Blobs, humanSize(r.Bytes)) }
	report, err := bundle.Verify(ctx, s.Args().Slice(), opt)
	progress.clear()
	if err != nil {
		return err
	}
	if s.Bool("json") {
		err = printJSON(p.Stdout, report)
	} else {
		_, err = fmt.Fprint(p.Stdout, verified(report))
	}
	if err == nil && len(report.Problems) > 0 {
		err = findings{fmt.Errorf("the bundle is not good: %d findings", len(report.Problems))}
	}
	return err
}

func verified(r bundle.VerifyReport) string {
	if len(r.Problems) > 0 {
		return strings.Join(r.Problems, "\n") + "\n"
	}
	signed := ""
	if r.Signed {
		signed = ", signed by this key"
	}
	return fmt.Sprintf("good: %d blobs (%s)%s\n", r.Blobs, humanSize(r.Bytes), signed)
}
