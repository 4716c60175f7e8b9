# regctl and regsync: copies, artifacts with a subject, tags, deletes, a sync.

regctl_steps() {
	needs regctl regctl regsync || return 0
	export REGCTL_CONFIG=$work/regctl.json
	step "regctl login settings" regctl registry set --tls disabled "$host"
	step "regctl push" regctl image copy "ocidir://$work/image:v1" "$host/regctl/image:v1"
	step "regctl pull" regctl_pull regctl/image:v1
	step "regctl copy" regctl_copy
	step "regctl artifact put with subject" regctl_artifact_put
	step "regctl artifact list" regctl_artifact_list
	step "regctl artifact get" regctl_artifact_get
	step "regctl tag ls" expect v1 regctl tag ls "$host/regctl/image"
	step "regctl tag rm" regctl_tag_rm
	step "regctl repo ls" expect regctl/image regctl repo ls "$host"
	step "regctl manifest rm" regctl_manifest_rm
	step "regsync once" regsync_once
}

# regctl_pull REF
regctl_pull() {
	local dir
	dir=$(fresh regctl)
	regctl image copy "$host/$1" "ocidir://$dir:v1"
	same_blobs "$work/image" "$dir"
}

regctl_copy() {
	regctl image copy "$host/regctl/image:v1" "$host/regctl/copy:v1"
	regctl_pull regctl/copy:v1
}

regctl_artifact_put() {
	echo "a note" >"$work/note"
	regctl artifact put --artifact-type application/vnd.example.note --subject "$host/regctl/image:v1" --file "$work/note"
}

regctl_artifact_list() {
	expect application/vnd.example.note regctl artifact list "$host/regctl/image:v1"
	refuse expect application/vnd.example.note \
		regctl artifact list --filter-artifact-type application/vnd.example.other "$host/regctl/image:v1"
}

regctl_artifact_get() {
	regctl artifact get --subject "$host/regctl/image:v1" --filter-artifact-type application/vnd.example.note \
		>"$(fresh artifact)/note"
	cmp "$work/note" "$work/state/artifact/note"
}

regctl_tag_rm() {
	regctl image copy "$host/regctl/image:v1" "$host/regctl/image:gone"
	regctl tag rm "$host/regctl/image:gone"
	refuse regctl manifest head "$host/regctl/image:gone"
	regctl manifest head "$host/regctl/image:v1"
}

regctl_manifest_rm() {
	local digest
	digest=$(regctl image digest "$host/regctl/copy:v1")
	regctl manifest rm "$host/regctl/copy@$digest"
	refuse regctl manifest head "$host/regctl/copy:v1"
}

regsync_once() {
	cat >"$work/regsync.yml" <<-END
		version: 1
		creds:
		  - registry: $host
		    tls: disabled
		sync:
		  - source: $host/regctl/image
		    target: $host/regsync/image
		    type: repository
		    referrers: true
	END
	regsync once -c "$work/regsync.yml"
	expect application/vnd.example.note regctl artifact list "$host/regsync/image:v1"
	[ "$(digest_of regctl/image v1)" = "$(digest_of regsync/image v1)" ]
}
