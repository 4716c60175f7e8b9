# HTTPS: clients that follow `registry trust`, and certificates by ACME. Only with servers of our own.

tls_steps() {
	[ -f "$work/registry.pid" ] || { skip "tls" "the server is not ours"; return 0; }
	needs tls curl podman skopeo || return 0
	local tls_port
	tls_port=$(free_port)
	auto=127.0.0.1:$tls_port
	step "tls auto serves" tls_serve auto "$auto" --tls auto
	step "tls auto, curl checks the certificate" tls_curl
	step "tls auto, skopeo follows trust" tls_skopeo
	step "tls auto, podman follows trust" tls_podman
	tls_containerd
	tls_buildkit
	tls_acme
	podman rmi --all --force >/dev/null 2>&1 || true
}

# tls_serve NAME HOST:PORT FLAG... runs a server on $work/tls/NAME and returns when its health check says so. It is in
# $work/tls/NAME.pid until leave_workspace.
tls_serve() {
	local dir=$work/tls/$1 address=$2; shift 2
	mkdir -p "$dir"
	"$work/bin/registry" serve --db "$dir/reg.db" --addr "$address" "$@" >>"$dir/log" 2>&1 &
	echo "$!" >"$dir.pid"
	disown "$!"
	wait_for 30 registry healthcheck --addr "$address" --tls "$(tls_word "$@")" || { tail -n 5 "$dir/log"; return 1; }
}

# tls_word is what follows --tls among the arguments.
tls_word() {
	while [ "$1" != --tls ]; do shift; done
	echo "$2"
}

tls_stop() {
	[ ! -f "$work/tls/$1.pid" ] || stop_pid "$(cat "$work/tls/$1.pid")"
	rm -f "$work/tls/$1.pid"
}

# trust CLIENT HOST:PORT prints the directory that stands for the root of a client's machine after the commands that
# registry trust prints have been run there.
trust() {
	local root=$work/tls/clients
	registry trust --db "$work/tls/auto/reg.db" --for "$1" --root "$root" "$2" | sh
	echo "$root"
}

tls_curl() {
	local name port=${auto##*:}
	for name in 127.0.0.1 localhost "$(hostname)"; do
		curl -fsS --cacert "$work/tls/auto/tls/ca.crt" --connect-to "::127.0.0.1:$port" "https://$name:$port/v2/"
	done
	refuse curl -fsS "https://127.0.0.1:$port/v2/"
	refuse curl -fsS --cacert "$work/tls/auto/tls/ca.crt" --connect-to "::127.0.0.1:$port" "https://other.example:$port/v2/"
}

# Without the certificate skopeo refuses; with it the bytes are the same.
tls_skopeo() {
	local dir certs
	refuse skopeo copy -q --all "oci:$work/image:v1" "docker://$auto/tls/image:v1"
	certs=$(trust podman "$auto")/etc/containers/certs.d/$auto
	skopeo copy -q --all --dest-cert-dir "$certs" "oci:$work/image:v1" "docker://$auto/tls/image:v1"
	dir=$(fresh tls)
	skopeo copy -q --all --src-cert-dir "$certs" "docker://$auto/tls/image:v1" "oci:$dir:v1"
	same_blobs "$work/image" "$dir"
}

tls_podman() {
	local certs tree
	certs=$(trust podman "$auto")/etc/containers/certs.d/$auto
	refuse podman pull -q "$auto/tls/image:v1"
	podman pull -q --cert-dir "$certs" "$auto/tls/image:v1"
	podman push -q --cert-dir "$certs" "$auto/tls/image:v1" "$auto/tls/podman:v1"
	tree=$(podman image mount "$auto/tls/image:v1")
	same_tree "$work/rootfs" "$tree"
	podman image unmount "$auto/tls/image:v1"
}

tls_containerd() {
	needs "tls auto, containerd" containerd ctr || return 0
	. "$here/containerd.sh"
	start_containerd || { fail "tls auto, containerd" "did not start: $(tail -n 2 "$work/daemon.log")"; return 0; }
	step "tls auto, containerd follows trust" tls_ctr
	stop_pid "${daemons[-1]}"
}

tls_ctr() {
	local hosts
	refuse ctr images pull "$auto/tls/image:v1"
	hosts=$(trust containerd "$auto")/etc/containerd/certs.d
	ctr images pull --all-platforms --hosts-dir "$hosts" "$auto/tls/image:v1"
	ctr images push --hosts-dir "$hosts" "$auto/tls/containerd:v1" "$auto/tls/image:v1"
}

tls_buildkit() {
	needs "tls auto, buildkit" buildkitd buildctl runc || return 0
	. "$here/buildkit.sh"
	local config dir=$work/state/tls-buildkit
	mkdir -p "$dir"
	config=$(trust buildkit "$auto")/etc/buildkit/buildkitd.toml
	spawn buildkitd --config "$config" --root "$dir" --addr "unix://$work/buildkit.sock" --containerd-worker=false \
		--oci-worker-binary runc --oci-worker-net host
	wait_for 60 buildctl debug workers || { fail "tls auto, buildkit" "did not start: $(tail -n 2 "$work/daemon.log")"; return 0; }
	step "tls auto, buildkit follows trust" tls_build
	stop_pid "${daemons[-1]}"
}

tls_build() {
	local dir
	dir=$(fresh tls-build)
	printf 'FROM %s/tls/image:v1\nLABEL built=yes\n' "$auto" >"$dir/Dockerfile"
	buildctl build --progress=plain --frontend dockerfile.v0 --local "context=$dir" --local "dockerfile=$dir" \
		--output "type=image,name=$auto/tls/built:v1,push=true"
}

# Pebble is a small ACME server for tests. Its own HTTPS has the certificate of the registry's CA.
tls_acme() {
	needs "tls acme" pebble pebble-challtestsrv || return 0
	acme_tls=$(free_port) acme_http=$(free_port) acme=$(free_port) acme_management=$(free_port)
	start_pebble || { fail "tls acme" "pebble did not start: $(tail -n 2 "$work/daemon.log")"; return 0; }
	step "tls acme by tls-alpn-01" acme_issue alpn
	step "tls acme by http-01" acme_issue http --acme-http "127.0.0.1:$acme_http"
	step "tls acme keeps its certificate" acme_restart
	step "tls acme asks for no other name" acme_stranger
	tls_stop acme
	tls_stop auto
}

start_pebble() {
	local dns_port pair=$work/tls/auto/tls/host.pem
	dns_port=$(free_port)
	cat >"$work/tls/pebble.json" <<-END
		{"pebble": {"listenAddress": "127.0.0.1:$acme", "managementListenAddress": "127.0.0.1:$acme_management",
		 "certificate": "$pair", "privateKey": "$pair", "httpPort": $acme_http, "tlsPort": $acme_tls,
		 "profiles": {"default": {"description": "default", "validityPeriod": 7776000}}}}
	END
	spawn pebble-challtestsrv -dnsserver "127.0.0.1:$dns_port" -defaultIPv6 "" -management "127.0.0.1:$(free_port)" \
		-http01 "" -https01 "" -tlsalpn01 "" -doh ""
	spawn env PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 pebble -config "$work/tls/pebble.json" -dnsserver "127.0.0.1:$dns_port"
	wait_for 20 curl -fsS --cacert "$work/tls/auto/tls/ca.crt" -o "$work/tls/root.pem" "https://127.0.0.1:$acme_management/roots/0"
}

acme_curl() {
	curl -fsS --cacert "$work/tls/root.pem" --connect-to "::127.0.0.1:$acme_tls" "$@"
}

# acme_issue NAME FLAG... has a certificate issued for NAME.registry.test to a server without one. When http-01 is to be
# seen, nobody answers where the CA looks for tls-alpn-01.
acme_issue() {
	local name=$1.registry.test address=127.0.0.1:$acme_tls; shift
	tls_stop acme
	rm -rf "$work/tls/acme"
	[ $# -eq 0 ] || address=127.0.0.1:$(free_port)
	acme_serve "$address" "$name" "$@"
	curl -fsS --cacert "$work/tls/root.pem" --connect-to "::$address" "https://$name/v2/"
	refuse curl -fsS --connect-to "::$address" "https://$name/v2/"
	[ $# -eq 0 ] || expect "https://$name" curl -sS -o /dev/null -w '%{redirect_url}' -H "Host: $name" "http://127.0.0.1:$acme_http/v2/"
}

acme_serve() {
	local address=$1 name=$2; shift 2
	tls_serve acme "$address" --tls acme --tls-name "$name" --acme-directory "https://127.0.0.1:$acme/dir" \
		--acme-ca "$work/tls/auto/tls/ca.crt" --acme-email someone@registry.test "$@"
}

# acme_certificate NAME prints the certificate that is served.
acme_certificate() {
	acme_curl -w '%{certs}' -o /dev/null "https://$1/v2/"
}

# The next process has the certificate of the one before.
acme_restart() {
	local before
	acme_issue kept
	before=$(acme_certificate kept.registry.test)
	tls_stop acme
	acme_serve "127.0.0.1:$acme_tls" kept.registry.test
	[ -n "$before" ] && [ "$before" = "$(acme_certificate kept.registry.test)" ]
}

acme_stranger() {
	refuse acme_curl https://stranger.registry.test/v2/
	[ "$(find "$work/tls/acme/tls/acme" -type f | wc -l)" -eq 2 ]
}
