package certs

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// OwnConfig says what a server with a CA of its own is called and where that CA is kept.
type OwnConfig struct {
	Dir   string
	Names []string // DNS names and addresses, besides those of the machine
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
}

// Own is a small CA of the server's own and a certificate that it made for this machine. The CA stays, since clients have
// to be told to trust it; the certificate is made anew when it is about to end or lacks a name.
type Own struct {
	OwnConfig
	ca      *authority
	path    string
	host    atomic.Pointer[tls.Certificate]
	machine func() []string
	trouble string // what was last logged
}

const (
	hostFile    = "host.pem" // key and certificate, made by the CA
	ownCheck    = time.Minute
	renewBefore = 30 * 24 * time.Hour
	warnBefore  = 90 * 24 * time.Hour
)

// NewOwn reads the CA and the certificate in the directory, and makes what is missing. It fails if then there is no CA
// that has not ended, or no certificate at all.
func NewOwn(cfg OwnConfig) (*Own, error) { return newOwn(cfg, machineNames) }

func newOwn(cfg OwnConfig, machine func() []string) (*Own, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	o := &Own{OwnConfig: cfg, path: filepath.Join(cfg.Dir, hostFile), machine: machine}
	if err := ensureDir(cfg.Dir); err != nil {
		return nil, err
	}
	var err error
	if o.ca, err = openAuthority(cfg.Dir, cfg.Now(), o.Log); err != nil {
		return nil, err
	}
	if left := o.ca.cert.NotAfter.Sub(cfg.Now()); left < warnBefore {
		o.Log.Warn("the CA ends soon, and clients will have to trust a new one", "dir", cfg.Dir, "ends", o.ca.cert.NotAfter)
	}
	if pair, err := tls.LoadX509KeyPair(o.path, o.path); err == nil {
		o.host.Store(&pair)
	}
	if err := o.check(); o.host.Load() == nil {
		return nil, err
	}
	return o, nil
}

// Config is for the listener.
func (o *Own) Config() *tls.Config {
	return config(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return o.host.Load(), nil })
}

// Run renews the certificate while the server runs. A renewal that fails is tried again; the old one stays in use.
func (o *Own) Run(ctx context.Context) error {
	tick := time.NewTicker(ownCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			o.check()
		}
	}
}

// check renews the certificate if need be, and logs what stands in the way.
func (o *Own) check() error {
	err := o.renew()
	switch {
	case err == nil:
		o.trouble = ""
	case err.Error() != o.trouble:
		o.trouble = err.Error() // once, not every minute
		o.Log.Error("TLS certificate could not be renewed", "err", err)
	}
	return err
}

// renew makes a new certificate unless the one in use will do, and before it a new CA if the clock has been put right. It
// takes the CA that another process has put in the place of its own.
func (o *Own) renew() error {
	now, names := o.Now(), o.names()
	if ca, err := readAuthority(filepath.Join(o.Dir, authorityFile)); err == nil {
		o.ca = ca
	}
	if isOfWrongClock(o.ca.cert, now) {
		ca, err := openAuthority(o.Dir, now, o.Log)
		if err != nil {
			return err
		}
		o.ca = ca
	}
	if o.fits(names, now) {
		return nil
	}
	data, err := o.ca.issue(names, now)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return err
	}
	if err := install(o.path, data, os.Rename); err != nil {
		return err
	}
	o.host.Store(&pair)
	o.Log.Info("TLS certificate made", "ca", filepath.Join(o.Dir, authorityCertFile), "names", names, "ends", pair.Leaf.NotAfter)
	return nil
}

// fits says whether the certificate in use is of the CA, has all names, and either lasts or ends with the CA. While the
// clock is not set it does: clients whose clocks are right accept it.
func (o *Own) fits(names []string, now time.Time) bool {
	pair := o.host.Load()
	if pair == nil || pair.Leaf.CheckSignatureFrom(o.ca.cert) != nil {
		return false
	}
	if now.Before(plausible) && !pair.Leaf.NotBefore.Before(plausible) {
		return true
	}
	lasts := pair.Leaf.NotAfter.Sub(now) >= renewBefore || !pair.Leaf.NotAfter.Before(o.ca.cert.NotAfter)
	if !lasts || now.Before(pair.Leaf.NotBefore) {
		return false
	}
	has := slices.Clone(pair.Leaf.DNSNames)
	for _, address := range pair.Leaf.IPAddresses {
		has = append(has, address.String())
	}
	return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(has, name) })
}

// names are all that the certificate should have, sorted.
func (o *Own) names() []string {
	names := slices.Concat([]string{"localhost", "127.0.0.1", "::1"}, o.Names, o.machine())
	slices.Sort(names)
	return slices.Compact(names)
}

// machineNames are the host name and the addresses by which others may call this machine, as far as the system tells.
func machineNames() []string {
	var names []string
	if name, err := os.Hostname(); err == nil && hostName.MatchString(name) {
		names = append(names, strings.ToLower(name))
	}
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().IsValid() && !prefix.Addr().IsLinkLocalUnicast() {
			names = append(names, prefix.Addr().Unmap().WithZone("").String())
		}
	}
	return names
}

// hostName is what a machine's own name has to be to stand in a certificate: some have one that DNS would not take.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
