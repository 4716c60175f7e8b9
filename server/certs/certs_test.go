package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("CERTS_TEST_DIR"); dir != "" { // another process of TestOneAuthority
		if _, err := NewOwn(OwnConfig{Dir: dir, Log: quiet}); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.DiscardHandler)

// clock is the time of a test.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func machine(names ...string) func() []string { return func() []string { return names } }

// open opens a CA of its own at a time.
func open(t *testing.T, dir string, c *clock, names func() []string, more ...string) *Own {
	t.Helper()
	o, err := newOwn(OwnConfig{Dir: dir, Names: more, Log: quiet, Now: c.now}, names)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func roots(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	ca, err := Authority(dir)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("no certificate")
	}
	return pool
}

// shake makes a connection of a client to a server, both in this process, and returns what each saw of it.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			err = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
		done <- err
	}()
	conn, err := tls.Dial("tcp", ln.Addr().String(), client)
	if err != nil {
		<-done
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.ConnectionState(), <-done
}

func TestOwnIsTrustedByItsCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "tls")
	o := open(t, dir, &clock{time.Now()}, machine("box", "192.0.2.7"), "registry.example", "*.apps.example", "2001:db8::7")
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "box", "192.0.2.7", "registry.example", "x.apps.example", "2001:db8::7"} {
		state, err := shake(t, o.Config(), &tls.Config{ServerName: name, RootCAs: roots(t, dir), NextProtos: []string{"h2"}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if state.NegotiatedProtocol != "h2" {
			t.Errorf("%s: speaks %q", name, state.NegotiatedProtocol)
		}
		leaf := state.PeerCertificates[0]
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 397*24*time.Hour {
			t.Errorf("the certificate lasts %s", life)
		}
	}
	if _, err := shake(t, o.Config(), &tls.Config{ServerName: "other.example", RootCAs: roots(t, dir)}); err == nil {
		t.Error("a client took the certificate for another host's")
	}
	if _, err := shake(t, o.Config(), &tls.Config{ServerName: "localhost", RootCAs: roots(t, dir), MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	other := t.TempDir()
	open(t, other, &clock{time.Now()}, machine())
	if _, err := shake(t, o.Config(), &tls.Config{ServerName: "localhost", RootCAs: roots(t, other)}); err == nil {
		t.Error("another CA vouches for the certificate")
	}
}

func TestOwnKeepsToItself(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes mean nothing here")
	}
	dir := filepath.Join(t.TempDir(), "tls")
	open(t, dir, &clock{time.Now()}, machine())
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Errorf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(f.Name(), info.Mode(), err)
		}
	}
}

func TestOwnIsKept(t *testing.T) {
	dir, c := t.TempDir(), &clock{time.Now()}
	first := open(t, dir, c, machine("box"), "a.example")
	c.Time = c.AddDate(0, 6, 0)
	second := open(t, dir, c, machine("box"), "a.example")
	if !second.ca.cert.Equal(first.ca.cert) {
		t.Error("there is a new CA")
	}
	if !second.host.Load().Leaf.Equal(first.host.Load().Leaf) {
		t.Error("there is a new certificate, and the old one was good")
	}
	third := open(t, dir, c, machine(), "a.example")
	if !third.host.Load().Leaf.Equal(first.host.Load().Leaf) {
		t.Error("a name that is wanted no more made a new certificate")
	}
}

// The certificate of a running server is made anew for each of these reasons, and the CA stays.
func TestOwnRenews(t *testing.T) {
	for reason, change := range map[string]func(*clock, *[]string){
		"it ends soon":     func(c *clock, _ *[]string) { c.Time = c.Add(hostLife - renewBefore) },
		"it has ended":     func(c *clock, _ *[]string) { c.Time = c.Add(2 * hostLife) },
		"a name is new":    func(_ *clock, names *[]string) { *names = append(*names, "new.example") },
		"an address is":    func(_ *clock, names *[]string) { *names = append(*names, "2001:db8::9") },
		"it is not yet on": func(c *clock, _ *[]string) { c.Time = c.Add(-2 * backdate) },
	} {
		dir, c, names := t.TempDir(), &clock{time.Now()}, []string{"box"}
		o := open(t, dir, c, func() []string { return names })
		old, ca := o.host.Load(), o.ca.cert
		o.check()
		if o.host.Load() != old {
			t.Errorf("%s: renewed without it", reason)
		}
		change(c, &names)
		if err := o.check(); err != nil || o.host.Load() == old {
			t.Errorf("%s: not renewed: %v", reason, err)
			continue
		}
		now := c.Time
		if reason == "it is not yet on" {
			now = now.Add(backdate) // the CA is not yet on either
		}
		for _, name := range names {
			client := &tls.Config{ServerName: name, RootCAs: roots(t, dir), Time: func() time.Time { return now.Add(backdate) }}
			if _, err := shake(t, o.Config(), client); err != nil {
				t.Errorf("%s: %s: %v", reason, name, err)
			}
		}
		if again := open(t, dir, c, machine()); !again.ca.cert.Equal(ca) || !again.host.Load().Leaf.Equal(o.host.Load().Leaf) {
			t.Errorf("%s: the next process has something else", reason)
		}
	}
}

// Near its end the CA signs for what is left, once and not every minute; after it, it has to be replaced by hand.
func TestOwnEndsWithItsCA(t *testing.T) {
	dir, c := t.TempDir(), &clock{time.Now()}
	ends := open(t, dir, c, machine()).ca.cert.NotAfter
	c.Time = ends.Add(-10 * 24 * time.Hour)
	o := open(t, dir, c, machine())
	leaf := o.host.Load().Leaf
	if !leaf.NotAfter.Equal(ends) {
		t.Errorf("the certificate ends on %s, the CA on %s", leaf.NotAfter, ends)
	}
	o.check()
	if !o.host.Load().Leaf.Equal(leaf) {
		t.Error("made again, to no end")
	}
	c.Time = ends.Add(time.Second)
	if _, err := newOwn(OwnConfig{Dir: dir, Log: quiet, Now: c.now}, machine()); err == nil || !strings.Contains(err.Error(), "trust again") {
		t.Error(err)
	}
}

func TestOwnSurvivesLosses(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no certificate":     func(dir string) error { return os.Remove(filepath.Join(dir, hostFile)) },
		"half a certificate": func(dir string) error { return os.Truncate(filepath.Join(dir, hostFile), 300) },
		"no ca.crt":          func(dir string) error { return os.Remove(filepath.Join(dir, authorityCertFile)) },
		"another CA's certificate": func(dir string) error {
			other, err := NewOwn(OwnConfig{Dir: filepath.Join(dir, "other"), Log: quiet})
			if err != nil {
				return err
			}
			return os.Rename(other.path, filepath.Join(dir, hostFile))
		},
		"another ca.crt": func(dir string) error { return os.WriteFile(filepath.Join(dir, authorityCertFile), []byte("x"), 0o600) },
	} {
		dir, c := t.TempDir(), &clock{time.Now()}
		ca := open(t, dir, c, machine()).ca.cert
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		o := open(t, dir, c, machine())
		if !o.ca.cert.Equal(ca) {
			t.Errorf("%s: there is a new CA", name)
		}
		if _, err := shake(t, o.Config(), &tls.Config{ServerName: "localhost", RootCAs: roots(t, dir)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A damaged CA is not replaced: clients trust it, and somebody may have a copy.
func TestOwnRefusesDamagedCA(t *testing.T) {
	dir, c := t.TempDir(), &clock{time.Now()}
	open(t, dir, c, machine())
	path := filepath.Join(dir, authorityFile)
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := newOwn(OwnConfig{Dir: dir, Log: quiet, Now: c.now}, machine()); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 100 {
		t.Error("the file was touched")
	}
}

// What cannot be written leaves the old certificate in use, also when the server starts.
func TestOwnKeepsTheOldCertificate(t *testing.T) {
	if os.Getuid() == 0 || runtime.GOOS == "windows" {
		t.Log("root may write anywhere: the directory is removed instead")
	}
	dir, c := filepath.Join(t.TempDir(), "tls"), &clock{time.Now()}
	o := open(t, dir, c, machine())
	old := o.host.Load()
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	c.Time = c.Add(hostLife - renewBefore)
	if err := o.check(); err == nil || o.host.Load() != old {
		t.Error(err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if err := o.check(); err != nil || o.host.Load() == old {
		t.Error(err)
	}
}

// Processes that start at once have one CA, and it is the one that each of them serves with.
func TestOneAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	var processes sync.WaitGroup
	for range 6 {
		processes.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "CERTS_TEST_DIR="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	processes.Wait()
	sameAuthority(t, dir)
}

// The same within one process, where the race is closer, many times.
func TestOneAuthorityOften(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "tls")
		begin := make(chan struct{})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				<-begin
				o, err := newOwn(OwnConfig{Dir: dir, Log: quiet}, machine())
				if err != nil {
					t.Error(err)
					return
				}
				if err := o.host.Load().Leaf.CheckSignatureFrom(o.ca.cert); err != nil {
					t.Error(err)
				}
				if ca, err := readAuthority(filepath.Join(dir, authorityFile)); err != nil || !ca.cert.Equal(o.ca.cert) {
					t.Error("a process has a CA of its own:", err)
				}
			})
		}
		close(begin)
		all.Wait()
		sameAuthority(t, dir)
	}
}

// sameAuthority checks that the files of a directory belong together and that nothing else is left there.
func sameAuthority(t *testing.T, dir string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, hostFile), filepath.Join(dir, hostFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots(t, dir), DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 3 {
		t.Error(files, err)
	}
}

func TestAuthority(t *testing.T) {
	dir := t.TempDir()
	if _, err := Authority(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, content := range []string{"", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if err := os.WriteFile(filepath.Join(dir, authorityCertFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Authority(dir); err == nil {
			t.Errorf("%q is a certificate", content)
		}
	}
}

func TestMachineNames(t *testing.T) {
	names := machineNames()
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil && ip.IsLinkLocalUnicast() || strings.ContainsAny(name, "%/ ") {
			t.Errorf("%q stands for no host", name)
		}
	}
	if len(names) == 0 {
		t.Error("the machine has no name and no address")
	}
}

func TestRunEnds(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := open(t, dir, &clock{time.Now()}, machine()).Run(ctx); err != nil {
		t.Error(err)
	}
	files, err := NewFiles(filepath.Join(dir, hostFile), filepath.Join(dir, hostFile), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestFilesAreReloaded(t *testing.T) {
	dir := t.TempDir()
	o := open(t, filepath.Join(dir, "tls"), &clock{time.Now()}, machine())
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	renew := func(name string) {
		t.Helper()
		pair, err := o.ca.issue([]string{name}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		write(cert, pair)
		write(key, pair)
	}
	renew("first")
	var log strings.Builder
	f, err := NewFiles(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	name := func() string {
		state, err := shake(t, f.Config(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].DNSNames[0]
	}
	if got := name(); got != "first" {
		t.Error(got)
	}
	write(key, []byte("broken"))
	for range 2 {
		f.checked = time.Time{} // a second later
		if got := name(); got != "first" {
			t.Error("a broken pair is in use:", got)
		}
	}
	if n := strings.Count(log.String(), "not usable"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	renew("second")
	for deadline := time.Now().Add(20 * time.Second); name() != "second"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new pair is not in use")
		}
	}
	if _, err := NewFiles(cert, filepath.Join(dir, "missing"), quiet); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A CA that was made under a wrong clock is made anew when the clock is right, at a start and while the server runs. Under
// a clock that was never set, what is there stays.
func TestOwnAfterAWrongClock(t *testing.T) {
	right := time.Now()
	usable := func(name, dir string, o *Own) {
		t.Helper()
		client := &tls.Config{ServerName: "localhost", RootCAs: roots(t, dir), Time: func() time.Time { return right }}
		if _, err := shake(t, o.Config(), client); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, wrong := range map[string]time.Time{"ahead": right.AddDate(1, 0, 0), "never set": time.Unix(0, 0)} {
		dir, c := t.TempDir(), &clock{wrong}
		running := open(t, dir, c, machine())
		old := running.ca.cert
		c.Time = right
		running.check()
		usable(name+", running", dir, running)
		usable(name+", started", dir, open(t, dir, c, machine()))
		if kept, _ := filepath.Glob(filepath.Join(dir, authorityFile+".from-*")); len(kept) != 1 {
			t.Errorf("%s: the old CA is not kept: %v", name, kept)
		}

		dir, c = t.TempDir(), &clock{wrong}
		first, second := open(t, dir, c, machine()), open(t, dir, c, machine())
		c.Time = right
		first.check()
		second.check()
		first.check()
		if first.ca.cert.Equal(old) || !first.ca.cert.Equal(second.ca.cert) {
			t.Errorf("%s: two processes have two CAs", name)
		}
	}
	dir, c := t.TempDir(), &clock{right}
	before := open(t, dir, c, machine())
	c.Time = time.Unix(0, 0)
	after := open(t, dir, c, machine())
	if !after.ca.cert.Equal(before.ca.cert) || !after.host.Load().Leaf.Equal(before.host.Load().Leaf) {
		t.Error("made anew under a clock that was never set")
	}
	usable("unset now", dir, after)
}

// A client of TLS 1.2 gets a suite that authenticates what it encrypts, or none.
func TestNoCBC(t *testing.T) {
	dir := t.TempDir()
	o := open(t, dir, &clock{time.Now()}, machine())
	offered := 0
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		client := &tls.Config{ServerName: "localhost", RootCAs: roots(t, dir), MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}}
		state, err := shake(t, o.Config(), client)
		if err == nil && (state.CipherSuite != suite.ID || strings.Contains(suite.Name, "CBC")) {
			t.Errorf("offered %s, took %s", suite.Name, tls.CipherSuiteName(state.CipherSuite))
		}
		if err == nil {
			offered++
		}
	}
	if offered == 0 {
		t.Error("no suite of TLS 1.2 is taken")
	}
}
