# The workspace, the steps and the comparisons of the end-to-end run.
# Sourced by scripts/e2e/run after scripts/lib.sh.

passed=0 failed=0 skipped=0
daemons=()

# enter_workspace makes the temporary directory $work and points every client at it.
enter_workspace() {
	work=$(mktemp -d -t e2e.XXXXXX)
	PATH=${REGISTRY_TOOLS:-$HOME/.cache/registry-tools}/bin:$PATH
	export PATH
	# The Go toolchain keeps the caches it has; everything else gets a new home.
	GOMODCACHE=$(go env GOMODCACHE) GOCACHE=$(go env GOCACHE) GOENV=$(go env GOENV) GOPATH=$(go env GOPATH)
	export GOMODCACHE GOCACHE GOENV GOPATH
	export HOME=$work/home XDG_RUNTIME_DIR=$work/xdg TMPDIR=$work/tmp
	export XDG_CONFIG_HOME=$HOME/.config XDG_CACHE_HOME=$HOME/.cache XDG_DATA_HOME=$HOME/.local/share
	export DOCKER_CONFIG=$HOME/.docker
	mkdir -p "$XDG_CONFIG_HOME/containers" "$XDG_RUNTIME_DIR" "$TMPDIR" "$DOCKER_CONFIG"
	echo "{}" >"$DOCKER_CONFIG/config.json"
	chmod 700 "$XDG_RUNTIME_DIR"
	step_log=${E2E_REPORT:-$work/steps.log}
	: >"$step_log"
	go_tools
}

# go_tools builds the programs of this folder.
go_tools() {
	(cd "$here/orasclient" && CGO_ENABLED=0 go build -o "$work/bin/orasclient" .)
	PATH=$work/bin:$PATH
}

# leave_workspace stops what still runs and removes the directory, mounts first.
leave_workspace() {
	local pid
	for pid in "${daemons[@]}" $(cat "$work"/tls/*.pid 2>/dev/null); do stop_pid "$pid"; done
	[ ! -f "$work/registry.pid" ] || stop_pid "$(cat "$work/registry.pid")"
	unmount_below "$work"
	rm -rf "$work"
}

unmount_below() {
	awk -v dir="$1/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do
		umount "$mount" || umount -l "$mount"
	done
}

# discard_family_state removes what one family pulled: with a large layer it adds up.
discard_family_state() {
	unmount_below "$work/state"
	rm -rf "$work/state"
}

# serve_registry builds the server of this tree and starts it; sets host.
serve_registry() {
	(cd "$top" && go build -o "$work/bin/registry" .)
	port=$(free_port)
	host=127.0.0.1:$port
	restart_registry
}

# restart_registry starts the server on its directory; its pid is in $work/registry.pid.
restart_registry() {
	start_registry "$work/bin/registry" "$work/registry" "$port"
	echo "$registry_pid" >"$work/registry.pid"
}

# spawn COMMAND... starts a daemon that leave_workspace stops; its log is in $work/daemon.log.
spawn() {
	"$@" >>"$work/daemon.log" 2>&1 &
	daemons+=("$!")
	disown "$!"
}

# needs FAMILY TOOL... says whether all the tools are there; what is not fails or is skipped.
needs() {
	local family=$1 tool; shift
	for tool in "$@"; do
		command -v "$tool" >/dev/null && continue
		if [ "${E2E_SKIP_MISSING:-}" = 1 ]; then
			skip "$family" "no $tool"
		else
			fail "$family" "no $tool (.ci/clients installs it)"
		fi
		return 1
	done
}

skip() {
	skipped=$((skipped + 1))
	echo "skip $1: $2"
}

fail() {
	failed=$((failed + 1))
	echo "FAIL $1: $2"
}

# step NAME COMMAND... runs the command in a subshell that ends at the first error, and tells how
# it went. Its output goes to the log.
step() {
	local name=$1 out=$work/step.out status errexit=$-; shift
	set +e
	(set -e; "$@") >"$out" 2>&1 </dev/null
	status=$?
	[[ $errexit != *e* ]] || set -e
	{ echo "=== $name: status $status"; cat "$out"; } >>"$step_log"
	if [ "$status" -eq 0 ]; then
		passed=$((passed + 1))
		echo "ok $name"
	else
		fail "$name" "$(tail -n 4 "$out" | tr '\n' ' ' | cut -c 1-600)"
	fi
}

summary() {
	[ "$skipped" -eq 0 ] || echo "skipped: $skipped"
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
}

# fresh NAME prints a new empty directory of the family's state.
fresh() {
	rm -rf "$work/state/$1"
	mkdir -p "$work/state/$1"
	echo "$work/state/$1"
}

# same_blobs LAYOUT LAYOUT: the two OCI layouts hold the same blobs, byte for byte.
same_blobs() {
	diff -r "$1/blobs" "$2/blobs"
}

# same_tree GOLDEN TREE: every file of the golden tree is in the other, with the same bytes.
same_tree() {
	(cd "$1" && find . -type f -exec sha256sum {} +) | (cd "$2" && sha256sum --quiet --strict -c -)
}

# expect TEXT COMMAND... : a line of the command's output holds the text.
expect() {
	local text=$1 out; shift
	out=$("$@")
	grep -F -e "$text" <<<"$out" >/dev/null || { echo "no '$text' in: $out"; return 1; }
}

# refuse COMMAND... : the command fails.
refuse() {
	! "$@" || { echo "should have failed: $*"; return 1; }
}

# digest_of REPOSITORY REFERENCE asks the registry itself.
digest_of() {
	curl -fsSI -H 'Accept: application/vnd.oci.image.index.v1+json' -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
		-H 'Accept: application/vnd.docker.distribution.manifest.v2+json' -H 'Accept: application/vnd.docker.distribution.manifest.list.v2+json' \
		"http://$host/v2/$1/manifests/$2" | tr -d '\r' | awk 'tolower($1) == "docker-content-digest:" {print $2}'
}
