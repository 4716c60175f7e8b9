# skopeo and umoci: push, both formats, copy between repositories, list, delete.

skopeo_steps() {
	needs skopeo skopeo umoci || return 0
	step "skopeo push" seed skopeo/image
	step "skopeo push docker schema2" skopeo_push_schema2
	step "skopeo inspect" expect '"Architecture": "amd64"' skopeo inspect --tls-verify=false "docker://$host/skopeo/image:v1"
	step "skopeo pull" skopeo_pull skopeo/image:v1
	step "skopeo copy registry to registry" skopeo_copy
	step "skopeo list tags" expect '"v1"' skopeo list-tags --tls-verify=false "docker://$host/skopeo/image"
	step "skopeo pull one platform, umoci unpack" skopeo_unpack skopeo/image:v1
	step "skopeo delete" skopeo_delete
}

skopeo_push_schema2() {
	skopeo copy -q --dest-tls-verify=false --format v2s2 "oci:$work/image:v1" "docker://$host/skopeo/schema2:v2"
	expect 'application/vnd.docker.distribution.manifest.v2+json' \
		skopeo inspect --raw --tls-verify=false "docker://$host/skopeo/schema2:v2"
	skopeo_unpack skopeo/schema2:v2
}

# skopeo_pull REF pulls all platforms and compares every blob.
skopeo_pull() {
	local dir
	dir=$(fresh pull)
	skopeo copy -q --all --src-tls-verify=false "docker://$host/$1" "oci:$dir:v1"
	same_blobs "$work/image" "$dir"
}

skopeo_copy() {
	skopeo copy -q --all --src-tls-verify=false --dest-tls-verify=false \
		"docker://$host/skopeo/image:v1" "docker://$host/skopeo/deep/er/copy:v2"
	skopeo_pull skopeo/deep/er/copy:v2
}

# skopeo_unpack REF pulls this machine's platform and compares the files in it.
skopeo_unpack() {
	local dir
	dir=$(fresh unpack)
	skopeo copy -q --src-tls-verify=false "docker://$host/$1" "oci:$dir/layout:v1"
	umoci unpack --image "$dir/layout:v1" "$dir/bundle"
	same_tree "$work/rootfs" "$dir/bundle/rootfs"
}

skopeo_delete() {
	skopeo delete --tls-verify=false "docker://$host/skopeo/deep/er/copy:v2"
	refuse skopeo inspect --raw --tls-verify=false "docker://$host/skopeo/deep/er/copy:v2"
}
