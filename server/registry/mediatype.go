package registry

import (
	"fmt"
	"strings"
)

// A manifest is served with the media type it was pushed with, from the registry's own origin. So its type must be one
// with which a browser does nothing but save it, whatever the manifest contains.

// maxMediaType is the most bytes of a media type; RFC 6838 section 4.2 allows 127 on each side of the slash.
const maxMediaType = 255

// inertType is what a manifest is served as whose own type is refused by now.
const inertType = "application/octet-stream"

// activeTypes are the types below application/ that a browser, or a program that it starts, runs or shows. Everything that
// ends in +xml is one too. JSON is none: browsers show it as text, and what a page makes of it is the page's doing.
var activeTypes = map[string]string{
	// Documents, whose scripts run on the origin that served them.
	"application/xml":                        shown,
	"application/xml-dtd":                    shown,
	"application/xml-external-parsed-entity": shown,
	"application/xhtml":                      shown,
	"application/html":                       shown,
	"application/pdf":                        shown,
	"application/x-pdf":                      shown,
	"application/x-mimearchive":              shown,
	"application/signed-exchange":            "browsers show it as another site's page",
	"application/webbundle":                  "browsers show it as another site's page",

	// Scripts, which a page may name (WHATWG MIME Sniffing, "JavaScript MIME type").
	"application/javascript":   run,
	"application/x-javascript": run,
	"application/ecmascript":   run,
	"application/x-ecmascript": run,

	// What is played, in the browser or in a plug-in.
	"application/ogg":               "browsers play it",
	"application/mp4":               "browsers play it",
	"application/x-mpegurl":         "browsers play it",
	"application/vnd.apple.mpegurl": "browsers play it",
	"application/x-shockwave-flash": "a plug-in runs it",
	"application/futuresplash":      "a plug-in runs it",
	"application/x-silverlight-app": "a plug-in runs it",
	"application/x-java-applet":     "a plug-in runs it",
	"application/java-archive":      "a plug-in runs it",

	// What the browser hands to another program, or installs.
	"application/hta":                   "browsers start a program with it",
	"application/x-java-jnlp-file":      "browsers start a program with it",
	"application/x-ms-application":      "browsers start a program with it",
	"application/x-ms-xbap":             "browsers start a program with it",
	"application/x-xpinstall":           "browsers install it",
	"application/x-chrome-extension":    "browsers install it",
	"application/x-x509-ca-cert":        "browsers install it",
	"application/x-x509-user-cert":      "browsers install it",
	"application/x-apple-aspen-config":  "browsers install it",
	"application/x-ns-proxy-autoconfig": run,
}

const (
	shown = "browsers show it, with its scripts"
	run   = "browsers run it"
)

// checkMediaType refuses the media types that a new manifest may not have. Upper case makes no difference.
func checkMediaType(s string) error {
	lower := strings.ToLower(s)
	name, ok := strings.CutPrefix(lower, "application/")
	switch {
	case len(s) > maxMediaType:
		return fmt.Errorf("the media type has %d bytes: at most %d are allowed", len(s), maxMediaType)
	case !ok || !isRestrictedName(name):
		return fmt.Errorf("%.80q is not the name of a media type below application/", s)
	case strings.HasSuffix(name, "+xml"):
		return fmt.Errorf("%.80q is not accepted as the media type of a manifest: %s", s, shown)
	}
	if why, active := activeTypes[lower]; active {
		return fmt.Errorf("%.80q is not accepted as the media type of a manifest: %s", s, why)
	}
	return nil
}

// isRestrictedName says whether s has the characters of a restricted-name (RFC 6838 section 4.2).
func isRestrictedName(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte("!#$&-^_.+", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// ServedAs returns the media type that a stored manifest is served with: its own, or one that every client saves if a
// manifest with its own would be refused today.
func (m Manifest) ServedAs() string {
	if isKnown(m.MediaType) || checkMediaType(m.MediaType) == nil {
		return m.MediaType
	}
	return inertType
}

// isKnown says whether the specifications of OCI and Docker define what is in manifests of this type.
func isKnown(mediaType string) bool { return isImage(mediaType) || isIndex(mediaType) }
