package command

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Variables that look as if they were meant for the registry, and are not.

// linkName and linkValue are those of Kubernetes' service links: a Service called registry, or registry-ui, gives every
// container of its namespace variables such as REGISTRY_PORT=tcp://10.96.0.10:5000.
var (
	linkName  = regexp.MustCompile(`^REGISTRY_((SERVICE|PORT)_|.*_SERVICE_(HOST|PORT)(_|$)|.*_PORT_\d+_(TCP|UDP|SCTP)(_|$))`)
	linkValue = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

func isServiceLink(variable, value string) bool {
	return linkName.MatchString(variable) || strings.HasSuffix(variable, "_PORT") && linkValue.MatchString(value)
}

// foreign are variables of other programs that begin like ours.
var foreign = []string{"REGISTRY_AUTH_FILE"} // podman, skopeo and buildah keep logins there

// replaced says what to say instead of the variables of distribution (registry:2). A name that ends in _ stands for all
// that begin so.
var replaced = map[string]string{
	"REGISTRY_HTTP_ADDR":                        "say REGISTRY_ADDR",
	"REGISTRY_HTTP_HOST":                        "say REGISTRY_EXTERNAL_URL",
	"REGISTRY_HTTP_SECRET":                      "nothing takes its place: uploads are kept in the database",
	"REGISTRY_HTTP_RELATIVEURLS":                "nothing takes its place: addresses in answers are relative",
	"REGISTRY_HTTP_DEBUG_ADDR":                  "/metrics is at REGISTRY_ADDR, the profiler at REGISTRY_DEBUG_ADDR",
	"REGISTRY_HTTP_TLS_CERTIFICATE":             "say REGISTRY_TLS_CERT",
	"REGISTRY_HTTP_TLS_KEY":                     "say REGISTRY_TLS_KEY",
	"REGISTRY_HTTP_TLS_LETSENCRYPT_":            "say REGISTRY_TLS=acme, REGISTRY_TLS_NAME and REGISTRY_ACME_EMAIL",
	"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "say REGISTRY_DB and REGISTRY_BLOBS; registry import distribution DIR takes over what is there",
	"REGISTRY_STORAGE_DELETE_ENABLED":           "nothing takes its place: REGISTRY_READ_ONLY refuses deletions, grants say who may delete",
	"REGISTRY_STORAGE_MAINTENANCE_":             "say REGISTRY_READ_ONLY; uploads expire by REGISTRY_UPLOAD_TIMEOUT",
	"REGISTRY_STORAGE_CACHE_":                   "nothing takes its place: the database is the cache",
	"REGISTRY_STORAGE_S3_":                      "this version keeps blobs in a directory: REGISTRY_BLOBS",
	"REGISTRY_PROXY_REMOTEURL":                  "say REGISTRY_UPSTREAM",
	"REGISTRY_PROXY_USERNAME":                   "say REGISTRY_UPSTREAM=NAME,user=FILE",
	"REGISTRY_PROXY_PASSWORD":                   "say REGISTRY_UPSTREAM=NAME,user=FILE",
	"REGISTRY_PROXY_TTL":                        "say REGISTRY_TAG_TTL",
	"REGISTRY_AUTH_HTPASSWD_":                   "say REGISTRY_AUTH=token, and registry user import-htpasswd FILE brings in the users",
	"REGISTRY_AUTH_TOKEN_":                      "say REGISTRY_AUTH=token: the registry makes its tokens itself",
	"REGISTRY_LOG_FORMATTER":                    "say REGISTRY_LOG_FORMAT",
	"REGISTRY_LOG_ACCESSLOG_":                   "say REGISTRY_LOG_LEVEL=warn to log no requests",
}

// unknownVariables says what is set and means nothing to any command. environment has the variables that there are, as
// keys; rest and file are those of the process that were not among them, as NAME=VALUE, and of the env file.
func unknownVariables(environment map[string]string, rest []string, file map[string]string) (warnings []string) {
	set := map[string]string{}
	for _, pair := range rest {
		name, value, _ := strings.Cut(pair, "=")
		set[name] = value
	}
	maps.Copy(set, file)
	for name, value := range environment {
		if isServiceLink(name, value) {
			set[name] = value
		}
	}
	var links []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		_, known := environment[name]
		switch {
		case set[name] == "":
		case isServiceLink(name, set[name]):
			links = append(links, name)
		case known || !strings.HasPrefix(name, "REGISTRY_") || slices.Contains(foreign, name):
		default:
			warnings = append(warnings, name+" is ignored: "+insteadOf(name, environment))
		}
	}
	if len(links) > 0 {
		warnings = append(warnings, fmt.Sprintf("%s is ignored: Kubernetes sets it for a Service of this name (enableServiceLinks: false ends that)",
			strings.Join(links, ", ")))
	}
	return warnings
}

// insteadOf says what to say instead of an unknown variable: what does the same, or the nearest name.
func insteadOf(name string, known map[string]string) string {
	for prefix, text := range replaced {
		if name == prefix || strings.HasSuffix(prefix, "_") && strings.HasPrefix(name, prefix) {
			return "registry:2 has it; " + text
		}
	}
	nearest := slices.MinFunc(slices.Sorted(maps.Keys(known)), func(a, b string) int { return distance(name, a) - distance(name, b) })
	return "there is no such setting; the nearest name is " + nearest
}

// distance is the number of letters to insert, remove or replace that make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
