# BuildKit: a build pushed, and its cache exported to the registry and imported from it.

buildkit_steps() {
	needs buildkit buildkitd buildctl runc skopeo || return 0
	local form
	seed buildkit/base
	start_buildkitd || { fail "buildkit" "did not start: $(tail -n 2 "$work/daemon.log")"; return 0; }
	for form in true false; do
		step "buildkit cache export, image-manifest=$form" buildkit_export "$form"
		step "buildkit cache import, image-manifest=$form" buildkit_import "$form"
	done
	step "buildkit image runs what was built" buildkit_compare
	stop_pid "$buildkitd_pid"
}

buildctl() {
	command buildctl --addr "unix://$work/buildkit.sock" "$@"
}

start_buildkitd() {
	local dir=$work/state/buildkit
	mkdir -p "$dir"
	cat >"$dir/buildkitd.toml" <<-END
		root = "$dir/root"
		[grpc]
		  address = ["unix://$work/buildkit.sock"]
		[worker.containerd]
		  enabled = false
		[worker.oci]
		  enabled = true
		  binary = "runc"
		  networkMode = "host"
		[registry."$host"]
		  http = true
	END
	spawn buildkitd --config "$dir/buildkitd.toml"
	buildkitd_pid=${daemons[-1]}
	wait_for 60 buildctl debug workers
}

# buildkit_build FORM FLAG...
buildkit_build() {
	local form=$1 dir=$work/state/context-$1; shift
	mkdir -p "$dir"
	printf 'FROM %s/buildkit/base:v1 AS first\nRUN ["/bin/busybox", "sh", "-c", "echo %s > /made"]\nFROM scratch\nCOPY --from=first /made /made\n' \
		"$host" "$form" >"$dir/Dockerfile"
	buildctl build --progress=plain --frontend dockerfile.v0 --local "context=$dir" --local "dockerfile=$dir" \
		--output "type=image,name=$host/buildkit/image:$form,push=true" "$@" 2>&1
}

buildkit_export() {
	buildkit_build "$1" --export-cache "type=registry,ref=$host/buildkit/cache:$1,mode=max,image-manifest=$1"
	digest_of buildkit/cache "$1" | grep sha256:
}

# With its own cache gone the builder must take every step from the registry's.
buildkit_import() {
	buildctl prune --all
	expect CACHED buildkit_build "$1" --import-cache "type=registry,ref=$host/buildkit/cache:$1"
}

buildkit_compare() {
	local dir
	dir=$(fresh built)
	skopeo copy -q --src-tls-verify=false "docker://$host/buildkit/image:true" "dir:$dir"
	expect true tar -xzOf "$dir/$(jq -r '.layers[0].digest | sub("sha256:"; "")' "$dir/manifest.json")" made
}
