# Logins, tokens and rights: every client is asked the same against a server with users.
#
#   alice      owns alice/**
#   bob        a stranger
#   reader     was granted pull:alice/**
#   API token  of alice's, for push:alice/ci/*, used as her password
#   nobody     without a login
#
# What a client does is four functions: login_NAME USER PASSWORD, logout_NAME, send_NAME REPOSITORY TAG and fetch_NAME
# REPOSITORY TAG, which compares what it pulled with what was sent. Only with a server of our own.

auth_steps() {
	[ -f "$work/registry.pid" ] || { skip "auth" "the server is not ours"; return 0; }
	needs auth buildah skopeo crane jq curl || return 0
	# Of this family alone: the others go on with the server that asks nobody.
	local host dir=$work/auth
	step "auth build an image" auth_build
	serve_users || { fail "auth" "the server did not start: $(tail -n 2 "$dir/registry.log")"; return 0; }
	step "auth users, a grant and an API token" auth_principals
	local client
	for client in skopeo buildah podman crane regctl oras helm3 helm4 cosign; do
		case $client in
		oras) ;;
		*) needs "auth $client" "$client" || continue ;;
		esac
		auth_questions "$client"
	done
	# shellcheck disable=SC2218 # they come with the files
	if needs "auth docker" docker dockerd; then
		. "$here/docker.sh" # for the engine
		if start_dockerd; then auth_questions docker; else fail "auth docker" "did not start"; fi
		stop_pid "$dockerd_pid"
	fi
	if needs "auth ctr" containerd ctr; then
		. "$here/containerd.sh"
		if start_containerd; then auth_questions ctr; else fail "auth ctr" "did not start"; fi
		stop_pid "${daemons[-1]}"
	fi
	step "auth oras: mount from where one may read" auth_mount alice alice/oras-mounted 201 \
		orasclient mount "$host/alice/oras-mounted:v1" "$work/small-artifact" alice/oras
	step "auth oras: no mount from where one may not, but an upload" auth_mount bob bob/oras-mounted 202 \
		orasclient mount "$host/bob/oras-mounted:v1" "$work/small-artifact" alice/oras
	step "auth crane: a copy mounts" auth_mount reader reader/crane-mounted 201 \
		crane cp "$host/alice/crane:v1" "$host/reader/crane-mounted:v1"
	step "auth nothing of what was refused got in" auth_nothing_got_in
	step "auth a user who is disabled is out" auth_disabled
	stop_pid "$auth_pid"
}

# serve_users starts a server with users beside the one that asks nobody; sets host and auth_pid.
serve_users() {
	local port nobody=$registry_pid
	port=$(free_port)
	host=127.0.0.1:$port
	mkdir -p "$dir"
	echo admin-password >"$dir/admin-password"
	start_registry "$work/bin/registry" "$dir" "$port" --auth token --admin-password-file "$dir/admin-password" \
		--log-format json || return 1
	auth_pid=$registry_pid registry_pid=$nobody
	daemons+=("$auth_pid")
}

# manage COMMAND... runs a command beside the server with users.
manage() {
	"$work/bin/registry" "$@" --db "$dir/reg.db"
}

password_of() {
	case $1 in
	token) cat "$dir/token" ;;
	*) echo "$1-password" ;;
	esac
}

auth_principals() {
	local user
	for user in alice bob reader; do
		password_of "$user" | manage user add "$user" --password-stdin
	done
	manage grant add reader pull 'alice/**'
	manage token create ci --user alice --scope 'push:alice/ci/*' >"$dir/token"
}

# auth_build makes an image of one file, and an artifact of another.
auth_build() {
	local container
	mkdir -p "$work/small-root"
	head -c 65536 /dev/urandom >"$work/small-root/note"
	head -c 65536 /dev/urandom >"$work/small-artifact"
	container=$(buildah from scratch)
	buildah copy -q "$container" "$work/small-root" /
	buildah config --os linux --arch amd64 --cmd /note "$container"
	buildah commit -q --rm "$container" "oci:$work/small-uncompressed:v1"
	skopeo copy -q "oci:$work/small-uncompressed:v1" "oci:$work/small:v1"
	(cd "$work" && COSIGN_PASSWORD='' cosign generate-key-pair --output-key-prefix auth)
}

# auth_questions CLIENT
auth_questions() {
	local client=$1
	auth_ask "the owner pushes and pulls" auth_owner
	auth_ask "a stranger is refused" auth_stranger
	auth_ask "a reader pulls and is refused a push" auth_reader
	auth_ask "an API token does what it is for" auth_token
	auth_ask "nobody is refused what is private" auth_nobody
	auth_ask "nobody pulls what is public" auth_anyone
	auth_ask "a wrong password is refused" auth_wrong_password
}

# auth_ask QUESTION FUNCTION: whatever became of the one before, nobody is logged in.
auth_ask() {
	"logout_$client" >/dev/null 2>&1 || true
	step "auth $client: $1" "$2"
}

auth_owner() {
	"login_$client" alice "$(password_of alice)"
	"send_$client" "alice/$client" v1
	"fetch_$client" "alice/$client" v1
	"send_$client" "alice/public-$client" v1
	"logout_$client"
	manage visibility "alice/public-$client" public
}

auth_stranger() {
	"login_$client" bob "$(password_of bob)"
	denied "fetch_$client" "alice/$client" v1
	denied "send_$client" "alice/$client" evil
	"fetch_$client" "alice/public-$client" v1
	denied "send_$client" "alice/public-$client" evil
	"send_$client" "bob/$client" v1
	"fetch_$client" "bob/$client" v1
	"logout_$client"
}

auth_reader() {
	"login_$client" reader "$(password_of reader)"
	"fetch_$client" "alice/$client" v1
	denied "send_$client" "alice/$client" evil
	"logout_$client"
}

auth_token() {
	"login_$client" alice "$(password_of token)"
	"send_$client" "alice/ci/$client" v1
	"fetch_$client" "alice/ci/$client" v1
	denied "fetch_$client" "alice/$client" v1
	denied "send_$client" "alice/$client" evil
	"logout_$client"
}

auth_nobody() {
	denied "fetch_$client" "alice/$client" v1
	denied "send_$client" "alice/$client" evil
	denied "send_$client" "alice/public-$client" evil
	denied "fetch_$client" "alice/never-$client" v1
}

auth_anyone() {
	"fetch_$client" "alice/public-$client" v1
}

# Some clients only keep what they are told at a login: the first request is refused then.
auth_wrong_password() {
	case $client in
	crane | cosign | ctr) denied auth_wrong_fetch ;;
	*) denied "login_$client" alice wrong-password ;;
	esac
}

auth_wrong_fetch() {
	"login_$client" alice wrong-password
	"fetch_$client" "alice/$client" v1
}

# denied COMMAND... : the command fails, and says that it is about rights.
denied() {
	local out status
	set +e
	out=$(set -e; "$@" 2>&1)
	status=$?
	set -e
	echo "$*: status $status: $out"
	[ "$status" -ne 0 ] || { echo "should have been refused: $*"; return 1; }
	grep -iE 'unauthorized|invalid username/password|authentication required|access to the resource is denied|insufficient_scope' <<<"$out" >/dev/null ||
		{ echo "failed, but not for want of rights: $*: $(tail -n 2 <<<"$out")"; return 1; }
}

# auth_mount USER REPOSITORY STATUS COMMAND... : a push to the repository offers to mount blobs, and the server answers
# that with the status each time. The push succeeds either way.
auth_mount() {
	local user=$1 repository=$2 status=$3; shift 3
	login_oras "$user" "$(password_of "$user")"
	"$@"
	crane manifest "$host/$repository:v1"
	logout_oras
	jq -s -e --arg repository "$repository" --argjson status "$status" 'map(select(.msg == "request" and
		.route == "blob_upload" and .repository == $repository and .status < 300)) | length > 0 and all(.status == $status)' \
		"$dir/registry.log"
}

# The log says who wrote what. The API token is alice, who was refused under a tag that she never used.
auth_nothing_got_in() {
	jq -c 'select(.msg == "request" and (.user != "alice") and (.repository | startswith("alice/")) and
		(.method == "PUT" or .method == "PATCH" or .method == "POST") and .status < 300)' "$dir/registry.log" >"$dir/got-in"
	[ ! -s "$dir/got-in" ] || { cat "$dir/got-in"; return 1; }
	manage tag list --json '**' >"$dir/tags"
	jq -e 'map(select(.repository == "alice/crane" and .name == "v1")) | length == 1' "$dir/tags"
	jq -e 'map(select(.name == "evil" or .name == "9.9.9")) | length == 0' "$dir/tags"
}

auth_disabled() {
	login_crane bob "$(password_of bob)"
	fetch_crane bob/crane v1
	manage user disable bob
	denied fetch_crane bob/crane v1
	logout_crane
}

# --- what the clients do ---

login_skopeo() { skopeo login --tls-verify=false -u "$1" -p "$2" "$host"; }
logout_skopeo() { skopeo logout "$host"; }
send_skopeo() { skopeo copy -q --dest-tls-verify=false "oci:$work/small:v1" "docker://$host/$1:$2"; }
fetch_skopeo() {
	local to
	to=$(fresh auth-skopeo)
	skopeo copy -q --src-tls-verify=false "docker://$host/$1:$2" "oci:$to:v1"
	same_blobs "$work/small" "$to"
}

login_buildah() { buildah login --tls-verify=false -u "$1" -p "$2" "$host"; }
logout_buildah() { buildah logout "$host"; }
send_buildah() {
	skopeo copy -q "oci:$work/small:v1" containers-storage:localhost/small:v1
	buildah push -q --tls-verify=false localhost/small:v1 "docker://$host/$1:$2"
}
fetch_buildah() {
	local container
	buildah rmi --all --force
	container=$(buildah from --pull-always --tls-verify=false "$host/$1:$2")
	same_tree "$work/small-root" "$(buildah mount "$container")"
	buildah rm "$container"
}

login_podman() { podman login --tls-verify=false -u "$1" -p "$2" "$host"; }
logout_podman() { podman logout "$host"; }
send_podman() {
	skopeo copy -q "oci:$work/small:v1" containers-storage:localhost/small:v1
	podman push -q --tls-verify=false localhost/small:v1 "$host/$1:$2"
}
fetch_podman() {
	podman rmi --all --force
	podman pull -q --tls-verify=false "$host/$1:$2"
	same_tree "$work/small-root" "$(podman image mount "$host/$1:$2")"
	podman image unmount "$host/$1:$2"
}

login_crane() { crane auth login "$host" -u "$1" -p "$2"; }
logout_crane() { crane auth logout "$host"; }
send_crane() { crane push "$work/small" "$host/$1:$2"; }
fetch_crane() {
	local to
	to=$(fresh auth-crane)
	crane pull --format=oci "$host/$1:$2" "$to/layout"
	same_blobs "$work/small" "$to/layout"
}

login_regctl() {
	export REGCTL_CONFIG=$dir/regctl.json
	regctl registry set --skip-check --tls disabled "$host"
	regctl registry login -u "$1" -p "$2" "$host"
}
logout_regctl() {
	export REGCTL_CONFIG=$dir/regctl.json
	regctl registry logout "$host"
}
send_regctl() {
	export REGCTL_CONFIG=$dir/regctl.json
	regctl image copy "ocidir://$work/small:v1" "$host/$1:$2"
}
fetch_regctl() {
	export REGCTL_CONFIG=$dir/regctl.json
	local to
	to=$(fresh auth-regctl)
	regctl image copy "$host/$1:$2" "ocidir://$to:v1"
	same_blobs "$work/small" "$to"
}

login_oras() { orasclient login "$host" "$1" "$2"; }
logout_oras() { orasclient logout "$host"; }
send_oras() { orasclient push "$host/$1:$2" "$work/small-artifact"; }
fetch_oras() {
	local to
	to=$(fresh auth-oras)
	orasclient pull "$host/$1:$2" "$to"
	cmp "$work/small-artifact" "$to/artifact"
}

login_helm3() { helm_do helm3 registry login --plain-http -u "$1" -p "$2" "$host"; }
logout_helm3() { helm_do helm3 registry logout "$host"; }
send_helm3() { send_helm helm3 "$@"; }
fetch_helm3() { fetch_helm helm3 "$@"; }
login_helm4() { helm_do helm4 registry login --plain-http -u "$1" -p "$2" "$host"; }
logout_helm4() { helm_do helm4 registry logout "$host"; }
send_helm4() { send_helm helm4 "$@"; }
fetch_helm4() { fetch_helm helm4 "$@"; }

helm_do() { HELM_REGISTRY_CONFIG=$dir/helm.json "$@"; }

# helm_version TAG
helm_version() {
	case $1 in
	v1) echo 1.0.0 ;;
	*) echo 9.9.9 ;;
	esac
}

# send_helm PROGRAM REPOSITORY TAG: the last part of the repository is the chart's name, and the tag its version.
send_helm() {
	local version chart=${2##*/}
	version=$(helm_version "$3")
	mkdir -p "$dir/charts"
	[ -d "$dir/charts/$chart" ] || "$1" create "$dir/charts/$chart"
	[ -f "$dir/charts/$chart-$version.tgz" ] || "$1" package "$dir/charts/$chart" -d "$dir/charts" --version "$version"
	helm_do "$1" push --plain-http "$dir/charts/$chart-$version.tgz" "oci://$host/${2%/*}"
}

fetch_helm() {
	local to version chart=${2##*/}
	version=$(helm_version "$3")
	to=$(fresh auth-helm)
	helm_do "$1" pull --plain-http "oci://$host/$2" --version "$version" -d "$to"
	cmp "$dir/charts/$chart-$version.tgz" "$to/$chart-$version.tgz"
}

# cosign signs an image that somebody pushed, and verifies.
login_cosign() { cosign login "$host" -u "$1" -p "$2"; }
logout_cosign() { crane auth logout "$host"; }
send_cosign() {
	[ "$2" = evil ] || crane push "$work/small" "$host/$1:$2"
	COSIGN_PASSWORD='' cosign sign --yes --key "$work/auth.key" --use-signing-config=false --tlog-upload=false \
		--allow-http-registry "$host/$1@$(crane_digest)"
}
fetch_cosign() {
	cosign verify --key "$work/auth.pub" --insecure-ignore-tlog --allow-http-registry "$host/$1@$(crane_digest)"
}
# What crane pushes of a layout with one image is that image.
crane_digest() { jq -r '.manifests[0].digest' "$work/small/index.json"; }

login_docker() { docker login -u "$1" -p "$2" "$host"; }
logout_docker() { docker logout "$host"; }
send_docker() {
	[ -f "$dir/docker.tar" ] || skopeo copy -q "oci:$work/small:v1" "docker-archive:$dir/docker.tar:small:v1"
	docker load -q -i "$dir/docker.tar"
	docker tag small:v1 "$host/$1:$2"
	docker push -q "$host/$1:$2"
}
fetch_docker() {
	local to container
	docker rmi -f "$host/$1:$2" small:v1 || true
	docker pull -q "$host/$1:$2"
	to=$(fresh auth-docker)
	container=$(docker create "$host/$1:$2")
	docker export "$container" | tar -C "$to" -xf -
	docker rm "$container"
	same_tree "$work/small-root" "$to"
}

# ctr keeps no logins.
login_ctr() { echo "$1:$2" >"$dir/ctr-user"; }
logout_ctr() { rm -f "$dir/ctr-user"; }
ctr_user() {
	if [ -f "$dir/ctr-user" ]; then
		ctr images "$@" --plain-http --user "$(cat "$dir/ctr-user")"
	else
		ctr images "$@" --plain-http
	fi
}
send_ctr() {
	tar -C "$work/small" -cf "$dir/small.tar" .
	ctr images import --base-name small --all-platforms "$dir/small.tar"
	ctr images tag --force small:v1 "$host/$1:$2"
	ctr_user push "$host/$1:$2" || { last_answer "$1"; return 1; }
}
# Of a manifest that is refused containerd 1.6 sometimes says only that a pipe is closed.
last_answer() {
	jq -s -r --arg repository "$1" 'map(select(.msg == "request" and .repository == $repository)) | last |
		if .status == 401 or .status == 403 then "unauthorized" else "answered \(.status)" end' "$dir/registry.log"
}
fetch_ctr() {
	local to name
	for name in $(ctr images ls -q); do ctr images rm --sync "$name"; done
	to=$(fresh auth-ctr)
	ctr_user pull "$host/$1:$2"
	ctr images export --skip-manifest-json "$to.tar" "$host/$1:$2"
	tar -C "$to" -xf "$to.tar"
	same_blobs "$work/small" "$to"
}
