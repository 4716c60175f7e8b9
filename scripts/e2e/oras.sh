# oras-go through the program in orasclient: artifacts, referrers, recursive copy, delete.

oras_steps() {
	local type=application/vnd.example.sbom
	head -c 3000000 /dev/urandom >"$work/artifact"
	echo sbom >"$work/sbom"
	step "oras push" orasclient push "$host/oras/artifact:v1" "$work/artifact"
	step "oras pull" oras_pull oras/artifact:v1
	step "oras attach" orasclient attach "$host/oras/artifact:v1" "$work/sbom" $type
	step "oras discover" expect sha256: orasclient discover "$host/oras/artifact:v1" $type
	step "oras copy -r" oras_copy $type
	step "oras tags" expect v1 orasclient tags "$host/oras/artifact"
	step "oras repo ls" expect oras/artifact orasclient repos "$host"
	step "oras manifest delete" oras_delete
}

# oras_pull REF
oras_pull() {
	local dir
	dir=$(fresh oras)
	orasclient pull "$host/$1" "$dir"
	cmp "$work/artifact" "$dir/artifact"
}

oras_copy() {
	orasclient copy "$host/oras/artifact:v1" "$host/oras/copy:v1"
	oras_pull oras/copy:v1
	expect "$(orasclient discover "$host/oras/artifact:v1" "$1")" orasclient discover "$host/oras/copy:v1" "$1"
}

oras_delete() {
	orasclient delete "$host/oras/copy:v1"
	refuse orasclient pull "$host/oras/copy:v1" "$(fresh gone)"
}
