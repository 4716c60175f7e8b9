package bundle

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// VerifyOptions say what is asked of a bundle.
type VerifyOptions struct {
	Key      ed25519.PublicKey // nil: it need not be signed
	Stdin    io.Reader
	Tmp      string
	Progress func(VerifyReport)
}

// VerifyReport is what was read and what was found.
type VerifyReport struct {
	Parts    int      `json:"parts"`
	Blobs    int      `json:"blobs"`
	Bytes    int64    `json:"bytes"`
	Signed   bool     `json:"signed"`
	Problems []string `json:"problems"` // parts to be sent again, or what is wrong with the whole
}

// Verify reads every byte of a bundle without a registry. If it came in parts the problems name those that have to be sent
// again, whichever others are there; a bundle of which all parts are good is read as a whole. What is wrong with the bundle
// is in the report; the error is for what could not be read.
func Verify(ctx context.Context, paths []string, opt VerifyOptions) (report VerifyReport, err error) {
	report.Problems = []string{}
	set, err := verifiable(paths)
	if err != nil {
		return report, err
	}
	report.Parts = len(set.parts)
	if report.Problems = append(report.Problems, set.problems(true)...); len(report.Problems) > 0 {
		return report, ctx.Err()
	}
	err = verifyWhole(ctx, paths, opt, &report)
	if errors.Is(err, ErrInvalid) {
		report.Problems, err = append(report.Problems, err.Error()), nil
	}
	return report, err
}

// verifiable are the parts of a bundle; none of a directory or a pipe.
func verifiable(paths []string) (set partSet, err error) {
	if len(paths) == 1 {
		if info, err := os.Stat(paths[0]); paths[0] == "-" || err == nil && info.IsDir() {
			return partSet{}, nil
		}
	}
	return findParts(paths)
}

func verifyWhole(ctx context.Context, paths []string, opt VerifyOptions, report *VerifyReport) error {
	from, err := open(paths, opt.Stdin, opt.Tmp)
	if err != nil {
		return err
	}
	a, err := scan(ctx, from, opt.Tmp)
	if err != nil {
		return err
	}
	defer a.Close()
	if _, err := a.bundle(); err != nil {
		return err
	}
	if _, ok := a.json[indexFile]; !ok {
		return invalid("it has no %s: what is no image layout is verified when it is imported", indexFile)
	}
	i := importer{from: a, opt: ImportOptions{VerifyKey: opt.Key}, report: &ImportReport{}}
	if err := i.checkSignature(); err != nil {
		return err
	}
	report.Signed = i.report.Signed
	linked := a.linked()
	return a.walk(ctx, func(m member) error {
		d, ok := linked[cleanName(m)]
		if !ok {
			d, ok = digestOf(cleanName(m))
		}
		if !ok || m.link != "" {
			return nil
		}
		verifier := d.Verifier()
		n, err := io.Copy(verifier, m.body)
		if err != nil {
			return invalid("%s: %w", m.name, err)
		}
		if !verifier.Verified() {
			report.Problems = append(report.Problems, fmt.Sprintf("the bytes of %s do not have this digest", d))
		}
		report.Blobs++
		report.Bytes += n
		if opt.Progress != nil {
			opt.Progress(*report)
		}
		return nil
	})
}

// problems says which parts are missing, too many or wrong. Without the list beside them only gaps are seen; read says
// whether the bytes are read, too.
func (s partSet) problems(read bool) (found []string) {
	if s.known == nil {
		for number := range len(s.parts) {
			if len(s.parts) > 1 && s.parts[number+1] == "" {
				found = append(found, fmt.Sprintf("part %03d is missing", number+1))
			}
		}
		return found
	}
	for number, part := range s.known.Parts {
		path, ok := s.parts[number+1]
		if !ok {
			found = append(found, fmt.Sprintf("%s is missing", part.Name))
		} else if problem := part.problem(path, read); problem != "" {
			found = append(found, fmt.Sprintf("%s %s", path, problem))
		}
	}
	for _, number := range slices.Sorted(maps.Keys(s.parts)) {
		if number > len(s.known.Parts) {
			found = append(found, fmt.Sprintf("%s is not of this bundle", filepath.Base(s.parts[number])))
		}
	}
	return found
}

// problem is what is wrong with a part, "" if nothing is.
func (p Part) problem(path string, read bool) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err.Error()
	}
	if info.Size() != p.Size {
		return fmt.Sprintf("has %d bytes instead of %d", info.Size(), p.Size)
	}
	if !read {
		return ""
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return err.Error()
	}
	if hex.EncodeToString(hash.Sum(nil)) != p.SHA256 {
		return "is damaged"
	}
	return ""
}
