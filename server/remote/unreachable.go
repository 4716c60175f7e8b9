package remote

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"
)

// Unreachable is the error of a connection that another try does not mend.
type Unreachable struct {
	Advice string
	Err    error
}

func (e *Unreachable) Error() string { return fmt.Sprintf("%v: %s", Cause(e.Err), e.Advice) }

func (e *Unreachable) Unwrap() error { return e.Err }

// Cause is the part of a failed request's error that does not name the request.
func Cause(err error) error {
	var failed *url.Error
	for errors.As(err, &failed) {
		err = failed.Err
	}
	return err
}

// unreachable makes an Unreachable of err if that is what it is. Once the registry has answered, one that refuses
// connections may be on its way back.
func (c *Client) unreachable(req *http.Request, err error) error {
	var dialing *net.OpError
	advice := ""
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		advice = "it speaks no TLS: name it as http://" + req.URL.Host
	case isCertificate(err):
		advice = "its certificate is not trusted: --ca FILE names the CA"
	case errors.As(err, new(tls.RecordHeaderError)), errors.As(err, new(tls.AlertError)):
		advice = "no TLS connection comes about: see which versions and certificates the server takes"
	case isNoHost(err):
		advice = "see whether the name is right and resolves on this machine"
	case c.answered.Load() || !errors.As(err, &dialing) || dialing.Op != "dial" && dialing.Op != "proxyconnect":
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = "see that the registry runs, and that it listens on this address and port"
	default:
		advice = "see whether this machine reaches it, and whether a firewall is in between"
	}
	return &Unreachable{advice, err}
}
