package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityFile     = "ca.pem" // key and certificate in one file, so that nothing parts them
	authorityCertFile = "ca.crt" // the certificate once more, for others
	authorityYears    = 10
	hostLife          = 397 * 24 * time.Hour // what clients accept from anybody
	backdate          = time.Hour            // for clients whose clock is slow
)

// authority is a CA that signs for one machine.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// openAuthority reads the CA of a directory, and makes one if there is none. Of several processes that do so at once, one
// makes it and all have it. One that was made under a wrong clock, which no client accepts, is made anew.
func openAuthority(dir string, now time.Time, log *slog.Logger) (*authority, error) {
	path := filepath.Join(dir, authorityFile)
	ca, err := readAuthority(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeAuthority(path, now); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		ca, err = readAuthority(path)
	}
	if err == nil && isOfWrongClock(ca.cert, now) {
		ca, err = replaceAuthority(path, ca, now, log)
	}
	if err != nil {
		return nil, err
	}
	if now.After(ca.cert.NotAfter) {
		return nil, fmt.Errorf("the CA in %s ended on %s: if the clock is right, remove the directory for a new one, which clients have to trust again",
			dir, ca.cert.NotAfter.Format(time.DateOnly))
	}
	return ca, ca.publish(filepath.Join(dir, authorityCertFile))
}

// plausible is a time at which this program did not exist yet: a clock that says less was never set.
var plausible = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// zoneMistake is how far a clock is off at most that takes local time for UTC. A CA that is ahead by no more is soon good.
const zoneMistake = 14 * time.Hour

// isOfWrongClock says whether a certificate that was made here was made under a wrong clock: one that was ahead, or was
// never set. A clock that was never set itself says nothing.
func isOfWrongClock(cert *x509.Certificate, now time.Time) bool {
	made := cert.NotBefore.Add(backdate)
	return !now.Before(plausible) && (made.Sub(now) > zoneMistake || made.Before(plausible))
}

// replaceAuthority makes a new CA in the place of one, which is kept beside it: it may be this clock that is wrong.
func replaceAuthority(path string, old *authority, now time.Time, log *slog.Logger) (*authority, error) {
	kept := path + ".from-" + old.cert.NotBefore.UTC().Format("20060102T150405")
	if err := os.Link(path, kept); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	data, err := newAuthority(now)
	if err == nil {
		err = install(path, data, os.Rename)
	}
	if err != nil {
		return nil, err
	}
	log.Warn("the CA was made under a wrong clock and is made anew: clients have to trust the new one",
		"made", old.cert.NotBefore.Add(backdate), "now", now, "kept", kept)
	return readAuthority(path)
}

func readAuthority(path string) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		return nil, fmt.Errorf("the CA in %s: %w", path, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s is no CA", path)
	}
	return &authority{pair.Leaf, key}, nil
}

func makeAuthority(path string, now time.Time) error {
	data, err := newAuthority(now)
	if err != nil {
		return err
	}
	return install(path, data, os.Link)
}

// newAuthority makes a CA, as PEM with its key.
func newAuthority(now time.Time) ([]byte, error) {
	var id [4]byte
	rand.Read(id[:])
	return sign(&x509.Certificate{
		Subject:   pkix.Name{CommonName: fmt.Sprintf("registry CA %x", id)}, // so that people can tell two of them apart
		NotBefore: now.Add(-backdate),
		NotAfter:  now.AddDate(authorityYears, 0, 0),
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:      true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}, nil)
}

// publish writes the certificate into a file of its own, unless it is there.
func (ca *authority) publish(path string) error {
	data := certificatePEM(ca.cert)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	return install(path, data, os.Rename)
}

// issue makes a certificate for a host of these names, as PEM with its key. It ends no later than the CA.
func (ca *authority) issue(names []string, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "registry"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(hostLife - backdate),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	for _, name := range names {
		if address, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, address.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return sign(template, ca)
}

// sign makes a key and a certificate for it, signed by a CA or, if that is nil, by itself, and returns both as PEM.
func sign(template *x509.Certificate, ca *authority) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if ca == nil {
		ca = &authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...), nil
}

func certificatePEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// Authority returns the certificate of the CA in a directory as PEM, for clients to trust. It does not read the key. The
// error is fs.ErrNotExist if no server has made a CA there.
func Authority(dir string) ([]byte, error) {
	path := filepath.Join(dir, authorityCertFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s has no certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certificatePEM(cert), nil
}
