package command

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"registry/server"
	"registry/server/certs"

	"github.com/urfave/cli/v2"
)

// HTTPS, and the name by which clients know the server.

// tlsFlags say whether the server speaks HTTPS, which its health check has to know too.
func tlsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "tls", EnvVars: env("tls"),
			Usage: "serve HTTPS with certificates from `WORD`: auto, a CA of the server's own, or acme; when empty, from --tls-cert, or plain HTTP"},
		&cli.StringFlag{Name: "tls-cert", EnvVars: env("tls-cert"), Usage: "PEM `FILE` with the certificate chain: serve HTTPS"},
		&cli.StringFlag{Name: "tls-key", EnvVars: env("tls-key"), Usage: "PEM `FILE` with the key of the certificate"},
	}
}

// certificateFlags say which certificates the server has made.
func certificateFlags() []cli.Flag {
	return []cli.Flag{
		tlsDirFlag(),
		&cli.StringSliceFlag{Name: "tls-name", EnvVars: env("tls-name"),
			Usage: "`NAME` for the certificate of --tls auto or acme; more of them with commas, or the flag again"},
		&cli.StringFlag{Name: "acme-directory", EnvVars: env("acme-directory"), Value: certs.LetsEncrypt,
			Usage: "`URL` of the ACME server's directory"},
		&cli.StringFlag{Name: "acme-ca", EnvVars: env("acme-ca"), DefaultText: "those of the system",
			Usage: "PEM `FILE` with the CAs that the ACME server's own HTTPS is checked by"},
		&cli.StringFlag{Name: "acme-email", EnvVars: env("acme-email"), Usage: "`ADDRESS` that the ACME server may write to"},
		&cli.StringFlag{Name: "acme-http", EnvVars: env("acme-http"),
			Usage: "answer http-01 on this `HOST:PORT` as well, and send everybody else from there to HTTPS; off when empty"},
	}
}

func tlsDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "tls-dir", EnvVars: env("tls-dir"), DefaultText: "tls beside the database",
		Usage: "`DIRECTORY` of the keys and certificates that --tls makes"}
}

func proxyFlags() []cli.Flag {
	return []cli.Flag{
		externalURLFlag(),
		&cli.StringSliceFlag{Name: "trusted-proxies", EnvVars: env("trusted-proxies"),
			Usage: "believe X-Forwarded-* and Forwarded of these `CIDR`s and addresses, with commas between them; unix: of who uses the socket"},
	}
}

func externalURLFlag() cli.Flag {
	return &cli.StringFlag{Name: "external-url", Aliases: []string{"url"}, EnvVars: env("external-url", "OCI_REGISTRY_PUBLIC_URL"),
		DefaultText: "what the request says", Usage: "`URL` by which clients know the server: scheme, host and port"}
}

// tlsKind is where the certificate comes from.
type tlsKind int

const (
	tlsNone tlsKind = iota // plain HTTP
	tlsFiles
	tlsAuto
	tlsACME
)

func (s *settings) tlsKind() (tlsKind, error) {
	cert, key := s.String("tls-cert"), s.String("tls-key")
	files := cert != "" || key != ""
	switch word := s.String("tls"); {
	case word != "" && word != "auto" && word != "acme":
		return 0, s.badf("tls", "%q is unknown; it may be: auto, acme", word)
	case word != "" && files:
		return 0, s.badf("tls", "%s makes a certificate, and %s and %s bring one: choose one of the two", word, s.named("tls-cert"), s.named("tls-key"))
	case word == "auto":
		return tlsAuto, nil
	case word == "acme":
		return tlsACME, nil
	case (cert == "") != (key == ""):
		return 0, usagef("%s and %s belong together: one is missing", s.named("tls-cert"), s.named("tls-key"))
	case files:
		return tlsFiles, nil
	}
	return tlsNone, nil
}

// tlsOptions are the flags about HTTPS, checked.
type tlsOptions struct {
	kind      tlsKind
	cert, key string // files
	named     func(flag string) string
	dir       string
	names     []string // lower case
	acme      certs.ACMEConfig
	opened    server.Certificates // of files
}

// tlsOptions reads the flags about HTTPS. opt has what the server is called.
func (s *settings) tlsOptions(opt serveOptions) (tls tlsOptions, err error) {
	if tls.kind, err = s.tlsKind(); err != nil {
		return tls, err
	}
	if err := s.refuseIdle(tls.kind); err != nil {
		return tls, err
	}
	tls.cert, tls.key, tls.named = s.String("tls-cert"), s.String("tls-key"), s.named
	tls.dir = s.tlsDir(opt.location.DB)
	if tls.names, err = certificateNames(s.StringSlice("tls-name")); err != nil {
		return tls, s.bad("tls-name", err)
	}
	external := hostOf(opt.server.ExternalURL)
	switch tls.kind {
	case tlsAuto:
		tls.names = append(tls.names, ownNames(external, opt.address)...)
	case tlsACME:
		tls.acme, err = s.acme(tls, external, opt.server.ExternalURL)
	}
	return tls, err
}

// refuseIdle refuses flags that would do nothing: who gives them believes to have HTTPS of another kind.
func (s *settings) refuseIdle(kind tlsKind) error {
	for _, f := range certificateFlags() {
		name := f.Names()[0]
		needs := "--tls acme"
		if strings.HasPrefix(name, "tls-") {
			needs = "--tls auto or acme"
		}
		if s.origin[name] > byDefault && kind != tlsACME && !(kind == tlsAuto && strings.HasPrefix(name, "tls-")) {
			return usagef("%s does nothing without %s", s.named(name), needs)
		}
	}
	return nil
}

// tlsDir is the directory of what is made. It is not the one of the blobs, since a backup has those.
func (s *settings) tlsDir(db string) string {
	if dir := s.String("tls-dir"); dir != "" {
		return dir
	}
	return filepath.Join(filepath.Dir(db), "tls")
}

// certificateNames checks what is to stand in a certificate: DNS names, the first label of which may be a star, and
// addresses.
func certificateNames(raw []string) (names []string, err error) {
	for _, name := range raw {
		name = strings.ToLower(strings.TrimSpace(name))
		if address, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil && address.Zone() == "" {
			names = append(names, address.Unmap().String())
			continue
		}
		if host, port, ok := server.ParseHost(strings.TrimPrefix(name, "*.")); !ok || port != "" || strings.HasPrefix(host, "[") {
			return nil, fmt.Errorf("%q is neither a DNS name nor an address", name)
		}
		names = append(names, strings.TrimSuffix(name, ".")) // as clients compare them (RFC 6066 section 3)
	}
	return names, nil
}

// hostOf is the host of an origin as it stands in a certificate.
func hostOf(origin string) string {
	_, authority, _ := strings.Cut(origin, "://")
	host, _, _ := server.ParseHost(authority)
	return strings.ToLower(strings.Trim(host, "[]"))
}

// ownNames are those of the names by which the server is known that can stand in a certificate.
func ownNames(external, address string) (names []string) {
	listening, _, err := net.SplitHostPort(address)
	if _, unix := unixPath(address); unix || err != nil {
		listening = ""
	}
	for _, name := range []string{external, listening} {
		if ip, err := netip.ParseAddr(name); err == nil && ip.IsUnspecified() {
			continue
		}
		if valid, err := certificateNames([]string{name}); err == nil {
			names = append(names, valid...)
		}
	}
	return names
}

func (s *settings) acme(tls tlsOptions, external, origin string) (cfg certs.ACMEConfig, err error) {
	cfg = certs.ACMEConfig{Dir: filepath.Join(tls.dir, "acme"), Names: tls.names, Email: s.String("acme-email")}
	if len(cfg.Names) == 0 && external != "" {
		cfg.Names = []string{external}
	}
	if len(cfg.Names) == 0 {
		return cfg, s.badf("tls", "acme needs a name to ask a certificate for: --tls-name, or --external-url")
	}
	for _, name := range cfg.Names {
		if _, err := netip.ParseAddr(name); err == nil || !strings.Contains(name, ".") || strings.HasPrefix(name, "*") {
			return cfg, s.badf("tls", "acme gets no certificate for %q: it must be a whole DNS name", name)
		}
	}
	if strings.HasPrefix(origin, "https://") {
		cfg.Origin = origin
	}
	if cfg.Directory, err = s.acmeDirectory(); err != nil {
		return cfg, err
	}
	if cfg.HTTPAddr = s.String("acme-http"); cfg.HTTPAddr != "" && !isHostPort(cfg.HTTPAddr) {
		return cfg, s.badf("acme-http", "%q is not HOST:PORT", cfg.HTTPAddr)
	}
	cfg.Roots, err = s.roots("acme-ca")
	return cfg, err
}

func (s *settings) acmeDirectory() (string, error) {
	raw := s.String("acme-directory")
	if u, err := url.Parse(raw); err != nil || u.Scheme != "https" || u.Host == "" {
		return "", s.badf("acme-directory", "%q is not an https URL", raw)
	}
	return raw, nil
}

// roots reads the CAs of a file, nil if the flag names none.
func (s *settings) roots(flag string) (*x509.CertPool, error) {
	path := s.String(flag)
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, s.bad(flag, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, s.badf(flag, "%s has no certificate", path)
	}
	return pool, nil
}

func isHostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// openFirst opens what may be root's: the files of a certificate, and the socket for http-01.
func (o *tlsOptions) openFirst(ctx context.Context, log *slog.Logger) (err error) {
	if o.kind == tlsFiles {
		o.opened, err = o.files(log)
	}
	if o.kind == tlsACME && o.acme.HTTPAddr != "" {
		if o.acme.HTTP, err = new(net.ListenConfig).Listen(ctx, "tcp", o.acme.HTTPAddr); err != nil {
			err = fmt.Errorf("--acme-http: %w", err)
		}
	}
	return err
}

// close closes the socket, whether or not it was used.
func (o *tlsOptions) close() {
	if o.acme.HTTP != nil {
		o.acme.HTTP.Close()
	}
}

// watched are the files that are read again when they change.
func (o *tlsOptions) watched() []string {
	if o.kind != tlsFiles {
		return nil
	}
	return []string{o.cert, o.key}
}

// open gets the certificates ready, or returns nil for plain HTTP.
func (o *tlsOptions) open(log *slog.Logger) (server.Certificates, error) {
	switch o.kind {
	case tlsFiles:
		return o.opened, nil
	case tlsAuto:
		own, err := certs.NewOwn(certs.OwnConfig{Dir: o.dir, Names: o.names, Log: log})
		if err != nil {
			return nil, fmt.Errorf("%s auto: %w", o.named("tls"), err)
		}
		return own, nil
	case tlsACME:
		o.acme.Log = log
		acme, err := certs.NewACME(o.acme)
		if err != nil {
			return nil, fmt.Errorf("%s acme: %w", o.named("tls"), err)
		}
		return acme, nil
	}
	return nil, nil
}

// files says which flag names a file that cannot be read.
func (o *tlsOptions) files(log *slog.Logger) (server.Certificates, error) {
	for _, f := range []struct{ flag, path string }{{"tls-cert", o.cert}, {"tls-key", o.key}} {
		file, err := os.Open(f.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.named(f.flag), err)
		}
		file.Close()
	}
	files, err := certs.NewFiles(o.cert, o.key, log)
	if err != nil {
		return nil, fmt.Errorf("%s %s, %s %s: %w", o.named("tls-cert"), o.cert, o.named("tls-key"), o.key, err)
	}
	return files, nil
}

// externalURL is the origin that clients are told, "" if they are told what they say themselves.
func (s *settings) externalURL() (string, error) {
	raw := s.String("external-url")
	if raw == "" {
		return "", nil
	}
	origin, err := server.ParseExternalURL(raw)
	if err != nil {
		return "", s.bad("external-url", err)
	}
	return origin, nil
}

func (s *settings) trustedProxies() (proxies []netip.Prefix, unix bool, err error) {
	for _, raw := range s.StringSlice("trusted-proxies") {
		if raw = strings.TrimSpace(raw); raw == "unix" {
			unix = true
			continue
		}
		prefix, err := netip.ParsePrefix(raw)
		if err != nil {
			var address netip.Addr
			if address, err = netip.ParseAddr(raw); err == nil {
				prefix = netip.PrefixFrom(address, address.BitLen())
			}
		}
		if err != nil || prefix.Addr().Is4In6() || prefix.Addr().Zone() != "" {
			return nil, false, s.badf("trusted-proxies", "%q is neither an address nor a range such as 10.0.0.0/8", raw)
		}
		proxies = append(proxies, prefix.Masked())
	}
	return slices.Clip(proxies), unix, nil
}
