# podman: push, pull, run, search.

podman_steps() {
	needs podman podman runc skopeo || return 0
	step "podman push" podman_push
	step "podman pull" podman_pull
	step "podman run" expect 'hello from linux/amd64' podman run --rm --pull=never --network=none "$host/podman/image:v1"
	step "podman search" expect "$host/podman/image" podman search --tls-verify=false "$host/podman"
	step "podman search tags" expect v1 podman search --list-tags --tls-verify=false "$host/podman/image"
	podman rmi --all --force >/dev/null 2>&1 || true
}

# What podman pushes is what it loaded: gzip may differ, so the pull compares trees.
podman_push() {
	skopeo copy -q "oci:$work/image:v1" containers-storage:localhost/podman:v1
	podman push -q --tls-verify=false localhost/podman:v1 "$host/podman/image:v1"
	podman rmi --all --force
}

podman_pull() {
	local tree
	podman pull -q --tls-verify=false "$host/podman/image:v1"
	tree=$(podman image mount "$host/podman/image:v1")
	same_tree "$work/rootfs" "$tree"
	podman image unmount "$host/podman/image:v1"
}
