# buildah: an index pushed with all its platforms, and a build on top of a pulled image.

buildah_steps() {
	needs buildah buildah || return 0
	step "buildah push" buildah_push
	step "buildah pull" buildah_pull
	step "buildah bud from the registry" buildah_bud
	buildah rmi --all --force >/dev/null 2>&1 || true
}

buildah_push() {
	seed buildah/seed
	buildah pull -q --tls-verify=false "$host/buildah/seed:v1"
	buildah push -q --tls-verify=false "$host/buildah/seed:v1" "docker://$host/buildah/image:v1"
	buildah rmi --all --force
}

buildah_pull() {
	local container
	container=$(buildah from --tls-verify=false "$host/buildah/image:v1")
	same_tree "$work/rootfs" "$(buildah mount "$container")"
	buildah rm "$container"
}

buildah_bud() {
	local dir container
	dir=$(fresh bud)
	printf 'FROM %s/buildah/image:v1\nRUN ["/bin/busybox", "touch", "/made"]\n' "$host" >"$dir/Containerfile"
	buildah bud -q --tls-verify=false -t made "$dir"
	buildah push -q --tls-verify=false made "docker://$host/buildah/image:v2"
	container=$(buildah from --pull-always --tls-verify=false "$host/buildah/image:v2")
	[ -e "$(buildah mount "$container")/made" ]
	buildah rm "$container"
}
