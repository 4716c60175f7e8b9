# A second server that mirrors the first: containerd by ?ns=, podman and skopeo by path.

mirror_steps() {
	needs mirror containerd ctr podman skopeo curl || return 0
	[ -z "${REGISTRY_URL:-}" ] || { skip mirror "it needs servers of its own"; return 0; }
	seed library/image
	start_mirror
	step "mirror: skopeo by path, all platforms" mirror_skopeo
	step "mirror: podman by path" mirror_podman
	# shellcheck source=containerd.sh
	. "$here/containerd.sh"
	start_containerd || { fail "mirror" "containerd did not start: $(tail -n 2 "$work/daemon.log")"; return 0; }
	step "mirror: ctr with one entry for all registries" mirror_ctr
	stop_pid "$registry_pid_of_origin"
	step "mirror: everything again without the upstream" mirror_alone
	stop_pid "${daemons[-1]}"
	restart_registry
}

start_mirror() {
	fresh mirror >/dev/null
	mirror=127.0.0.1:$(free_port)
	spawn "$work/bin/registry" serve --db "$work/state/mirror/reg.db" --addr "$mirror" --tag-ttl 1s \
		--upstream "docker.io=http://$host" --upstream "ghcr.io=http://$host"
	wait_for 30 curl -fsS "http://$mirror/readyz"
	registry_pid_of_origin=$(cat "$work/registry.pid")
}

mirror_skopeo() {
	local dir
	dir=$(fresh layout)
	skopeo copy -q --all --src-tls-verify=false "docker://$mirror/ghcr.io/library/image:v1" "oci:$dir:v1"
	same_blobs "$work/image" "$dir"
}

mirror_podman() {
	podman pull -q --tls-verify=false "$mirror/docker.io/image:v1"
	same_tree "$work/rootfs" "$(podman image mount "$mirror/docker.io/image:v1")"
	podman rmi --all --force
}

# One hosts.toml for every registry: ctr says which one it means.
mirror_ctr() {
	local certs dir
	certs=$(fresh certs)
	mkdir "$certs/_default"
	cat >"$certs/_default/hosts.toml" <<-END
		[host."http://$mirror"]
		  capabilities = ["pull", "resolve"]
	END
	ctr images pull --hosts-dir "$certs" --all-platforms docker.io/library/image:v1
	dir=$(fresh ctr)
	ctr images export --all-platforms --skip-manifest-json "$dir/image.tar" docker.io/library/image:v1
	mkdir "$dir/layout"
	tar -C "$dir/layout" -xf "$dir/image.tar"
	same_blobs "$work/image" "$dir/layout"
	ctr images rm --sync docker.io/library/image:v1
	refuse ctr images pull --hosts-dir "$certs" quay.example/library/image:v1
}

mirror_alone() {
	sleep 1.1 # the tag is old enough to be asked for
	expect 'Warning: 299' curl -fsSi "http://$mirror/v2/ghcr.io/library/image/manifests/v1"
	mirror_skopeo
	mirror_podman
	mirror_ctr
}
