# containerd through ctr: pull and push of all platforms.

containerd_steps() {
	needs containerd containerd ctr skopeo || return 0
	seed containerd/image
	start_containerd || { fail "containerd" "did not start: $(tail -n 2 "$work/daemon.log")"; return 0; }
	step "ctr pull" ctr_pull
	step "ctr push" ctr_push
	stop_pid "${daemons[-1]}"
}

ctr() {
	command ctr -a "$work/containerd.sock" "$@"
}

start_containerd() {
	local dir=$work/state/containerd
	mkdir -p "$dir"
	cat >"$dir/containerd.toml" <<-END
		version = 2
		root = "$dir/root"
		state = "$dir/state"
		disabled_plugins = ["io.containerd.grpc.v1.cri"]
		[grpc]
		  address = "$work/containerd.sock"
		[ttrpc]
		  address = "$work/containerd.sock.ttrpc"
	END
	spawn containerd -c "$dir/containerd.toml"
	wait_for 30 ctr version
}

ctr_pull() {
	local dir
	ctr images pull --plain-http --all-platforms "$host/containerd/image:v1"
	dir=$(fresh ctr)
	ctr images export --all-platforms --skip-manifest-json "$dir/image.tar" "$host/containerd/image:v1"
	mkdir "$dir/layout"
	tar -C "$dir/layout" -xf "$dir/image.tar"
	same_blobs "$work/image" "$dir/layout"
}

ctr_push() {
	ctr images tag "$host/containerd/image:v1" "$host/containerd/pushed:v1"
	ctr images push --plain-http "$host/containerd/pushed:v1"
	[ "$(digest_of containerd/image v1)" = "$(digest_of containerd/pushed v1)" ]
	local dir
	dir=$(fresh pushed)
	skopeo copy -q --all --src-tls-verify=false "docker://$host/containerd/pushed:v1" "oci:$dir:v1"
	same_blobs "$work/image" "$dir"
}
