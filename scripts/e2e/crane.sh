# crane: layouts, single images, indexes, copies that mount, catalog, validate, delete.

crane_steps() {
	needs crane crane || return 0
	step "crane push" crane push --index "$work/image" "$host/crane/image:v1"
	step "crane pull" crane_pull
	step "crane validate" crane validate --fast --remote "$host/crane/image:v1"
	step "crane append" crane_append
	step "crane index append" crane_index_append
	step "crane copy with mount" crane_copy
	step "crane ls" expect v1 crane ls "$host/crane/image"
	step "crane catalog" expect crane/image crane catalog "$host"
	step "crane delete tag" crane_delete_tag
}

# crane pushes the layout's own index, with the image's index in it: one blob more than the layout has.
crane_pull() {
	local dir outer
	dir=$(fresh crane)
	crane pull --format=oci "$host/crane/image:v1" "$dir/layout"
	outer=$(digest_of crane/image v1)
	rm "$dir/layout/blobs/sha256/${outer#sha256:}"
	same_blobs "$work/image" "$dir/layout"
}

crane_append() {
	local dir
	dir=$(fresh append)
	mkdir "$dir/files"
	echo appended >"$dir/files/appended"
	tar -C "$dir/files" -cf "$dir/layer.tar" appended
	crane append -b "$host/crane/image:v1" -f "$dir/layer.tar" -t "$host/crane/image:appended" --platform linux/amd64
	crane export --platform linux/amd64 "$host/crane/image:appended" "$dir/all.tar"
	expect appended tar -xOf "$dir/all.tar" appended
}

crane_index_append() {
	crane index append -m "$host/crane/image:v1" -m "$host/crane/image:appended" -t "$host/crane/image:index"
	expect "$(digest_of crane/image appended)" crane manifest "$host/crane/image:index"
}

crane_copy() {
	crane cp "$host/crane/image:v1" "$host/crane/copy:v1"
	[ "$(crane digest "$host/crane/image:v1")" = "$(crane digest "$host/crane/copy:v1")" ]
	crane validate --fast --remote "$host/crane/copy:v1"
}

crane_delete_tag() {
	crane tag "$host/crane/copy:v1" gone
	crane delete "$host/crane/copy:gone"
	refuse crane digest "$host/crane/copy:gone"
}
