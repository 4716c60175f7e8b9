# Bundles: two registries with nothing but files between them, and archives of and for other tools.

bundle_steps() {
	[ -f "$work/registry.pid" ] || { skip "bundle" "the server is not ours"; return 0; }
	needs bundle skopeo cosign helm3 crane jq buildah podman openssl || return 0
	start_far || { fail "bundle" "the second server did not start"; return 0; }
	fresh bundle >/dev/null
	bundles=$work/state/bundle
	step "bundle: fill the near side" bundle_fill
	step "bundle: export, sign and import" bundle_carry
	step "bundle: the same content makes the same file" bundle_again
	step "bundle: everything is on the far side" bundle_compare
	step "bundle: cosign verifies on the far side" bundle_cosign
	step "bundle: helm pulls on the far side" bundle_helm
	step "bundle: only a changed layer crosses" bundle_differential
	tail -n 1 "$work/differential"
	step "bundle: refused without its base" bundle_without_base
	step "bundle: parts, in any order, one resent" bundle_parts
	step "bundle: zstd through a pipe" bundle_pipe
	step "bundle: one platform" bundle_platform
	step "skopeo reads a bundle" bundle_skopeo
	step "crane reads a bundle" bundle_crane
	step "oras reads a bundle" bundle_oras
	step "import what skopeo writes" bundle_from_skopeo
	step "import what crane writes" bundle_from_crane
	step "import what podman saves" bundle_from_podman
	bundle_containerd
	bundle_docker
	stop_pid "$far_pid"
}

start_far() {
	far_port=$(free_port)
	far=127.0.0.1:$far_port
	start_registry "$work/bin/registry" "$work/far" "$far_port"
	far_pid=$registry_pid
	daemons+=("$far_pid")
}

near() { registry_in "$work/registry" "$@"; }
far() { registry_in "$work/far" "$@"; }

# registry_in DIR COMMAND [ARG...]
registry_in() {
	local dir=$1; shift
	REGISTRY_DB=$dir/reg.db "$work/bin/registry" "$@"
}

# An index of two platforms, signed in both forms, with an SBOM, and a chart.
bundle_fill() {
	export COSIGN_PASSWORD=
	seed bundle/app
	[ -f "$work/cosign.key" ] || (cd "$work" && cosign generate-key-pair)
	for form in true false; do
		cosign sign --yes --key "$work/cosign.key" --use-signing-config=false --tlog-upload=false \
			--new-bundle-format=$form --allow-http-registry "$host/bundle/app@$(digest_of bundle/app v1)"
	done
	echo sbom >"$bundles/sbom"
	orasclient attach "$host/bundle/app:v1" "$bundles/sbom" application/vnd.example.sbom
	helm3 create "$bundles/chart"
	helm3 package "$bundles/chart" -d "$bundles" --version 1.2.3
	helm3 push "$bundles/chart-1.2.3.tgz" "oci://$host/bundle" --plain-http
}

bundle_carry() {
	cd "$bundles"
	openssl genpkey -algorithm ed25519 -out key.pem
	openssl pkey -in key.pem -pubout -out pub.pem
	openssl genpkey -algorithm ed25519 | openssl pkey -pubout -out other.pem
	near export --repo 'bundle/**' --sign-key key.pem -o b.tar
	"$work/bin/registry" bundle verify --verify-key pub.pem b.tar
	tar -xOf b.tar bundle.json >bundle.json
	tar -xOf b.tar bundle.sig >bundle.sig
	openssl pkeyutl -verify -pubin -inkey pub.pem -rawin -in bundle.json -sigfile bundle.sig
	refuse far import --verify-key other.pem b.tar
	[ "$(far repo list --json | jq length)" = 0 ]
	far import --dry-run b.tar
	far import --verify-key pub.pem b.tar
}

bundle_again() {
	near export --repo 'bundle/**' --sign-key "$bundles/key.pem" -o - | cmp - "$bundles/b.tar"
	far export --repo 'bundle/**' --sign-key "$bundles/key.pem" -o - | cmp - "$bundles/b.tar"
}

bundle_compare() {
	diff <(near tag list --json 'bundle/**' | jq -c '.[] | [.repository, .name, .digest]') <(far tag list --json 'bundle/**' | jq -c '.[] | [.repository, .name, .digest]')
	diff <(near receipt 'bundle/**') <(far receipt 'bundle/**')
	local dir
	dir=$(fresh bundle-pulled)
	skopeo copy -q --all --src-tls-verify=false "docker://$far/bundle/app:v1" "oci:$dir:v1"
	same_blobs "$work/image" "$dir"
	expect sha256: orasclient discover "$far/bundle/app:v1" application/vnd.example.sbom
}

bundle_cosign() {
	for form in true false; do
		cosign verify --key "$work/cosign.pub" --insecure-ignore-tlog --new-bundle-format=$form \
			--allow-http-registry "$far/bundle/app@$(digest_of bundle/app v1)"
	done
}

bundle_helm() {
	mkdir "$bundles/pulled"
	helm3 pull "oci://$far/bundle/chart" --version 1.2.3 -d "$bundles/pulled" --plain-http
	cmp "$bundles/chart-1.2.3.tgz" "$bundles/pulled/chart-1.2.3.tgz"
}

# A small layer on top of the large ones.
bundle_differential() {
	cd "$bundles"
	local container
	container=$(buildah from --tls-verify=false --arch amd64 "$host/bundle/app:v1")
	buildah copy -q "$container" sbom /sbom
	buildah commit -q --rm "$container" "docker://$host/bundle/app:v2" --tls-verify=false ||
		{ buildah commit -q --rm "$container" changed && buildah push -q --tls-verify=false changed "$host/bundle/app:v2"; }
	buildah rmi --all --force
	far receipt >have.json
	near export --repo 'bundle/**' --have have.json -o diff.tar
	far import diff.tar
	diff <(near tag list --json 'bundle/**' | jq -c '.[].digest') <(far tag list --json 'bundle/**' | jq -c '.[].digest')
	echo "   the first bundle has $(stat -c %s b.tar) bytes, the second $(stat -c %s diff.tar)" >"$work/differential"
	[ "$(stat -c %s diff.tar)" -lt 100000 ]
}

bundle_without_base() {
	local dir=$work/state/empty
	rm -rf "$dir"
	start_registry "$work/bin/registry" "$dir" "$(free_port)"
	stop_pid "$registry_pid"
	find "$dir/reg.db-blobs" -type f | sort >"$bundles/before"
	refuse registry_in "$dir" import "$bundles/diff.tar"
	find "$dir/reg.db-blobs" -type f | sort | diff "$bundles/before" -
	[ "$(registry_in "$dir" repo list --json | jq length)" = 0 ]
	rm -rf "$dir"
}

bundle_parts() {
	cd "$bundles"
	near export --repo 'bundle/**' --split 10MiB -o p.tar
	[ "$(find . -name 'p.tar.0*' | wc -l)" -ge 3 ]
	far repo rm -y 'bundle/**'
	cp p.tar.002 good
	printf x | dd of=p.tar.002 bs=1 seek=1000000 conv=notrunc
	refuse "$work/bin/registry" bundle verify p.tar.0* >verified
	[ "$(cat verified)" = "p.tar.002 is damaged" ]
	refuse far import p.tar.0*
	mv p.tar.002 away
	refuse far import p.tar.0*
	head -c 5000 good >p.tar.002
	refuse far import p.tar.0*
	[ "$(far repo list --json | jq length)" = 0 ]
	mv good p.tar.002
	"$work/bin/registry" bundle verify p.tar.0*
	far import $(find . -name 'p.tar*' | sort -r)
	diff <(near receipt 'bundle/**') <(far receipt 'bundle/**')
	cat p.tar.0* | tar -tf - >/dev/null
}

bundle_pipe() {
	near export --repo bundle/app --zstd -o - | far import --map bundle/=piped/ --tmp "$bundles" -
	[ "$(far tag list --json piped/app | jq length)" = "$(near tag list --json bundle/app | jq length)" ]
}

bundle_platform() {
	cd "$bundles"
	near export --repo bundle/app --tag v1 --platform linux/arm64 -o arm.tar
	far import --map bundle/app=arm/app arm.tar
	expect '"arm64"' skopeo inspect --tls-verify=false --override-arch arm64 --config "docker://$far/arm/app:v1"
}

bundle_skopeo() {
	cd "$bundles"
	rm -rf one two
	skopeo copy -q --all oci-archive:b.tar:bundle/app:v1 oci:one:v1
	same_blobs "$work/image" one
	near export --repo bundle/app -o app.tar
	skopeo copy -q --all oci-archive:app.tar:v1 oci:two:v1
	same_blobs "$work/image" two
}

bundle_crane() {
	cd "$bundles"
	near export --repo bundle/app --tag v1 --no-referrers --docker --platform linux/amd64 -o crane.tar
	crane push --insecure crane.tar "$far/crane/file:v1"
	crane validate --insecure --remote "$far/crane/file:v1"
	rm -rf crane && mkdir crane && tar -C crane -xf crane.tar
	crane push --insecure crane "$far/crane/directory:v1"
	crane validate --insecure --remote "$far/crane/directory:v1"
	near export --repo bundle/app --tag v1 --platform linux/amd64 -o platform.tar
	far import --map bundle/app=crane/imported platform.tar
	[ "$(crane digest --insecure "$far/crane/directory:v1")" = "$(crane digest --insecure "$far/crane/imported:v1")" ]
}

bundle_oras() {
	orasclient fromtar "$bundles/app.tar" v1 "$far/oras/app:v1"
	[ "$(crane digest --insecure "$far/oras/app:v1")" = "$(digest_of bundle/app v1)" ]
	expect sha256: orasclient discover "$far/oras/app:v1" application/vnd.example.sbom
}

# pulls REF: the image on the far side has the files of the test image.
pulls() {
	local tree
	podman pull -q --tls-verify=false "$far/$1"
	tree=$(podman image mount "$far/$1")
	same_tree "$work/rootfs" "$tree"
	podman image unmount "$far/$1"
	podman rmi --all --force
}

bundle_from_skopeo() {
	cd "$bundles"
	skopeo copy -q --all "oci:$work/image:v1" oci-archive:skopeo-oci.tar:v1
	refuse far import skopeo-oci.tar
	far import --map =skopeo/oci skopeo-oci.tar
	[ "$(crane digest --insecure "$far/skopeo/oci:v1")" = "$(digest_of bundle/app v1)" ]
	far import --map =skopeo/directory "$work/image"
	[ "$(crane digest --insecure "$far/skopeo/directory:v1")" = "$(digest_of bundle/app v1)" ]
	skopeo copy -q "oci:$work/image:v1" docker-archive:skopeo-docker.tar:example.com/skopeo/docker:v1
	far import skopeo-docker.tar
	pulls skopeo/docker:v1
}

bundle_from_crane() {
	cd "$bundles"
	rm -rf crane-oci
	crane pull --insecure --platform linux/amd64 "$host/bundle/app:v1" crane-docker.tar
	far import --map bundle/app=crane/docker crane-docker.tar
	pulls crane/docker:v1
	crane pull --insecure --format oci "$host/bundle/app:v1" crane-oci
	far import --map =crane/oci:v1 crane-oci
	[ "$(crane digest --insecure "$far/crane/oci:v1")" = "$(digest_of bundle/app v1)" ]
}

bundle_from_podman() {
	cd "$bundles"
	rm -f podman-*.tar
	podman pull -q --tls-verify=false "$host/bundle/app:v1"
	podman save -q --format docker-archive -o podman-docker.tar "$host/bundle/app:v1"
	podman save -q --format oci-archive -o podman-oci.tar "$host/bundle/app:v1"
	podman rmi --all --force
	far import --map bundle/app=podman/docker podman-docker.tar
	pulls podman/docker:v1
	far import --map bundle/app=podman/oci podman-oci.tar
	pulls podman/oci:v1
}

bundle_containerd() {
	needs "bundle, containerd" containerd || return 0
	. "$here/containerd.sh"
	start_containerd || { fail "bundle, containerd" "did not start: $(tail -n 2 "$work/daemon.log")"; return 0; }
	step "ctr reads a bundle" bundle_ctr
	step "import what ctr writes" bundle_from_ctr
	stop_pid "${daemons[-1]}"
}

# Signatures under tags are no images that could be unpacked.
bundle_ctr() {
	cd "$bundles"
	near export --repo bundle/app --tag v1 --no-referrers -o ctr.tar
	ctr images import ctr.tar
	expect bundle/app:v1 ctr images list -q
	ctr images import --no-unpack --all-platforms b.tar
	expect bundle/chart:1.2.3 ctr images list -q
}

bundle_from_ctr() {
	cd "$bundles"
	ctr images export --all-platforms from-ctr.tar bundle/app:v1
	far import --map bundle/app=ctr/app from-ctr.tar
	[ "$(crane digest --insecure "$far/ctr/app:v1")" = "$(digest_of bundle/app v1)" ]
}

bundle_docker() {
	needs "bundle, docker" docker dockerd || return 0
	. "$here/docker.sh"
	start_dockerd || { fail "bundle, docker" "did not start"; return 0; }
	step "docker loads a bundle" bundle_docker_load
	step "import what docker saves" bundle_from_docker
	stop_pid "$dockerd_pid"
}

bundle_docker_load() {
	near export --repo bundle/app --docker -o "$bundles/docker.tar"
	docker load -i "$bundles/docker.tar"
	expect 'hello from linux/amd64' docker run --rm --network=none bundle/app:v1
}

bundle_from_docker() {
	docker save -o "$bundles/from-docker.tar" bundle/app:v1
	far import --map bundle/app=docker/app "$bundles/from-docker.tar"
	pulls docker/app:v1
}
