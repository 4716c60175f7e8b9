//go:build unix

package cli

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long a test waits for what should happen at once.
const patience = 20 * time.Second

// process is a running `registry serve`.
type process struct {
	*exec.Cmd
	log    string // path of its standard error
	exited chan struct{}
}

// launch starts `registry serve ARG...`, as the user of this number unless it is "". The caller kills it in the end.
func launch(dir string, env []string, log, user string, args ...string) (*process, error) {
	p := &process{Cmd: exec.Command("registry", append([]string{"serve"}, args...)...), log: log, exited: make(chan struct{})}
	if user != "" {
		id, err := strconv.ParseUint(user, 10, 32)
		if err != nil {
			return nil, err
		}
		p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}}
	}
	return p, p.start(dir, env)
}

func (p *process) start(dir string, env []string) error {
	out, err := os.Create(p.log)
	if err != nil {
		return err
	}
	p.Dir, p.Env, p.Stderr = dir, env, out
	if err := p.Start(); err != nil {
		return errors.Join(err, out.Close())
	}
	go func() {
		p.Wait()
		out.Close()
		close(p.exited)
	}()
	return nil
}

func (p *process) kill() {
	p.Process.Kill()
	<-p.exited
}

// wait returns the exit code, -1 if a signal ended the process.
func (p *process) wait() (int, error) {
	select {
	case <-p.exited:
		return p.ProcessState.ExitCode(), nil
	case <-time.After(patience):
		return 0, fmt.Errorf("the server has not ended; it logged:\n%s", p.everything())
	}
}

func (p *process) everything() string {
	text, _ := os.ReadFile(p.log)
	return string(text)
}

// logged returns the first line logged that matches, "" if there is none.
func (p *process) logged(pattern string) string {
	want := regexp.MustCompile(pattern)
	for line := range strings.Lines(p.everything()) {
		if want.MatchString(line) {
			return line
		}
	}
	return ""
}

// await waits for a line that matches.
func (p *process) await(pattern string) (string, error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if line := p.logged(pattern); line != "" {
			return line, nil
		}
		select {
		case <-p.exited:
			return "", fmt.Errorf("the server has ended; it logged:\n%s", p.everything())
		default:
		}
	}
	return "", fmt.Errorf("no line matches %s in:\n%s", pattern, p.everything())
}

// address waits for the line that says where the server listens.
func (p *process) address() (string, error) {
	line, err := p.await(`url"?[:=]`)
	if err != nil {
		return "", err
	}
	url := regexp.MustCompile(`https?://([^" ]+)`).FindStringSubmatch(line)
	if url == nil {
		return "", fmt.Errorf("no URL in %s", line)
	}
	return url[1], nil
}

// pushImage pushes a manifest with a config blob, and returns its digest.
func pushImage(url, repo, tag, content, subject string) (string, error) {
	config := digestOf([]byte(content))
	err := send(http.MethodPost, fmt.Sprintf("%s/v2/%s/blobs/uploads/?digest=%s", url, repo, config), "application/octet-stream", []byte(content))
	if err != nil {
		return "", err
	}
	if subject != "" {
		subject = fmt.Sprintf(`,"subject":{"mediaType":%q,"size":1,"digest":%q}`, imageManifest, subject)
	}
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.example","size":%d,"digest":%q},"layers":[]%s}`,
		imageManifest, len(content), config, subject)
	reference := tag
	if tag == "" {
		reference = digestOf(manifest)
	}
	return digestOf(manifest), send(http.MethodPut, fmt.Sprintf("%s/v2/%s/manifests/%s", url, repo, reference), imageManifest, manifest)
}

const imageManifest = "application/vnd.oci.image.manifest.v1+json"

func digestOf(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// send expects 201.
func send(method, url, mediaType string, body []byte) error {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaType)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		why, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s %s: %s: %s", method, url, answer.Status, why)
	}
	return nil
}
