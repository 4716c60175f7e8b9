package command

import (
	"log/slog"
	"net"
	"strings"

	"registry/server"

	"github.com/urfave/cli/v2"
)

// What browsers are let do.

func browserFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "allowed-host", EnvVars: env("allowed-host"),
			Usage: "without users: a `NAME` by which browsers, and on loopback all clients, may speak to the server besides its addresses, localhost, this machine's name and that of --external-url; may be repeated"},
		&cli.StringSliceFlag{Name: "cors-origins", EnvVars: env("cors-origins"),
			Usage: "let pages of these `ORIGINS` use the API, such as https://ui.example, with commas between them; * lets all pages read"},
		&cli.BoolFlag{Name: "hsts", EnvVars: env("hsts"),
			Usage: "tell browsers to speak only HTTPS to this host for a year; not with --tls auto"},
	}
}

// browserConfig reads the flags about browsers into what else is known of the server.
func (s *settings) browserConfig(opt *serveOptions) error {
	for _, raw := range s.StringSlice("allowed-host") {
		name := strings.TrimSpace(raw)
		host, port, ok := server.ParseHost(strings.TrimSuffix(name, "."))
		if !ok || port != "" || strings.HasPrefix(host, "[") {
			return usagef("--allowed-host %q is not a host name without a port", name)
		}
		opt.server.AllowedHosts = append(opt.server.AllowedHosts, host)
	}
	// The names that the server is told to listen on, or to have a certificate for, are its own.
	listening, _, _ := net.SplitHostPort(opt.address)
	opt.server.AllowedHosts = append(append(opt.server.AllowedHosts, opt.tls.names...), listening)
	for _, raw := range s.StringSlice("cors-origins") {
		origin, err := server.ParseOrigin(strings.TrimSpace(raw))
		if err != nil {
			return usagef("--cors-origins: %q is %w", raw, err)
		}
		opt.server.CORSOrigins = append(opt.server.CORSOrigins, origin)
	}
	opt.server.HSTS = s.Bool("hsts")
	return s.refuseHSTS(opt)
}

// refuseHSTS refuses --hsts where it would lock people out, or do nothing: what browsers remember cannot be taken back, and
// with it they let nobody pass a certificate of a CA that they do not know.
func (s *settings) refuseHSTS(opt *serveOptions) error {
	switch {
	case !opt.server.HSTS:
		return nil
	case opt.tls.kind == tlsAuto:
		return usagef("--hsts does not go with --tls auto: a browser that does not know the CA would not let anybody pass for a year")
	case opt.tls.kind == tlsNone && !strings.HasPrefix(opt.server.ExternalURL, "https:") && len(opt.server.TrustedProxies) == 0:
		return usagef("--hsts needs HTTPS: --tls, --tls-cert, or a proxy's with --external-url https://… or --trusted-proxies")
	}
	return nil
}

// warnOpen says at every start that everybody who reaches the server may do everything.
func warnOpen(log *slog.Logger, users bool, address net.Addr) {
	if !users && !isLoopback(address) {
		log.Warn("without users everybody who reaches this address may pull, push and delete: --auth token has users", "address", address.String())
	}
}

// isLoopbackTCP says whether only clients on this machine reach an address, and by themselves: what comes by a Unix socket
// has come through a proxy, which may pass on what clients on other machines call it.
func isLoopbackTCP(address net.Addr) bool {
	_, tcp := address.(*net.TCPAddr)
	return tcp && isLoopback(address)
}
