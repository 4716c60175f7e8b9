# The test image: an index of two platforms that really runs.
#
#   $work/rootfs  what is in the linux/amd64 image, as files
#   $work/image   the image as an OCI layout, tag `v1`: what every pull is compared with

layer_mb=${E2E_LAYER_MB:-100}

# configure_containers keeps podman, buildah and skopeo away from the machine's own configuration.
configure_containers() {
	export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
	export CONTAINERS_REGISTRIES_CONF=$work/registries.conf BUILDAH_ISOLATION=chroot
	cat >"$work/storage.conf" <<-END
		[storage]
		driver = "$(storage_driver)"
		graphroot = "$work/storage/root"
		runroot = "$work/storage/run"
	END
	cat >"$work/containers.conf" <<-END
		[containers]
		default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
		[engine]
		runtime = "runc"
		cgroup_manager = "cgroupfs"
		events_logger = "file"
	END
	echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$XDG_CONFIG_HOME/containers/policy.json"
	echo 'unqualified-search-registries = []' >"$work/registries.conf"
}
# storage_driver prints overlay where it can be mounted, else vfs, which copies every layer.
storage_driver() {
	local dir=$work/probe
	mkdir -p "$dir/lower" "$dir/upper" "$dir/work" "$dir/merged"
	if mount -t overlay overlay -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work" "$dir/merged" 2>/dev/null; then
		umount "$dir/merged"
		echo overlay
	else
		echo vfs
	fi
}

build_image() {
	local arch
	make_rootfs
	buildah manifest create e2e
	for arch in amd64 arm64; do
		build_base "$arch"
		build_platform "$arch"
		buildah manifest add e2e "e2e-$arch"
	done
	buildah manifest push --all e2e "oci:$work/image:v1"
	buildah rmi --all --force
	[ "$(du -sm "$work/image" | cut -f1)" -ge "$layer_mb" ]
	[ "$(find "$work/image/blobs" -type f | wc -l)" -ge 8 ]
}

# make_rootfs lays out the files; the random one is a layer of its own.
make_rootfs() {
	mkdir -p "$work/rootfs/bin" "$work/rootfs/data" "$work/layer/data"
	cp "$(command -v busybox)" "$work/rootfs/bin/busybox"
	ln -s busybox "$work/rootfs/bin/sh"
	head -c "${layer_mb}M" /dev/urandom >"$work/layer/data/random"
	ln "$work/layer/data/random" "$work/rootfs/data/random"
	for arch in amd64 arm64; do
		(cd "$here/orasclient" && GOOS=linux GOARCH=$arch CGO_ENABLED=0 go build -o "$work/hello-$arch" ./hello)
	done
	cp "$work/hello-amd64" "$work/rootfs/bin/hello"
}

# build_base ARCH: from scratch, the random layer alone.
build_base() {
	local container
	container=$(buildah from --arch "$1" scratch)
	buildah copy -q "$container" "$work/layer" /
	buildah commit -q --rm "$container" "e2e-base-$1"
}

# build_platform ARCH: the programs on top. Busybox there is for one architecture only.
build_platform() {
	local container
	container=$(buildah from --pull-never --arch "$1" "localhost/e2e-base-$1")
	buildah copy -q "$container" "$work/hello-$1" /bin/hello
	if [ "$1" = amd64 ]; then buildah copy -q "$container" "$work/rootfs/bin/busybox" "$work/rootfs/bin/sh" /bin/; fi
	buildah config --arch "$1" --os linux --env PATH=/bin --cmd /bin/hello "$container"
	buildah commit -q --rm "$container" "e2e-$1"
}

# seed REPOSITORY puts the test image there, as v1, for clients that only read.
seed() {
	skopeo copy -q --all --dest-tls-verify=false "oci:$work/image:v1" "docker://$host/$1:v1"
}
