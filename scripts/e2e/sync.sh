# The same file given to registry mirror sync and to regsync: both copy the same.

sync_steps() {
	needs sync regctl regsync skopeo curl || return 0
	[ -z "${REGISTRY_URL:-}" ] || { skip sync "it needs servers of its own"; return 0; }
	export REGCTL_CONFIG=$work/regctl.json
	seed sync/image
	step "sync: push tags and a referrer" sync_source
	sync_target
	step "sync: what registry mirror sync copies" sync_ours
	step "sync: what regsync copies by the same file" sync_theirs
	step "sync: the same tags, digests and referrers" sync_compare
	step "sync: pull what was copied" sync_pull
	stop_pid "${daemons[-1]}"
}

# sync_source pushes tags to choose from, and something that refers to one.
sync_source() {
	local tag
	regctl registry set --tls disabled "$host"
	for tag in 1.0.0 1.2.0 2.0.0 2.1.0-rc.1 edge; do
		regctl image copy "$host/sync/image:v1" "$host/sync/image:$tag"
	done
	echo "a note" >"$work/note.txt"
	regctl artifact put --artifact-type application/vnd.example.note --subject "$host/sync/image:1.2.0" --file "$work/note.txt"
}

sync_target() {
	local port
	port=$(free_port)
	copies=127.0.0.1:$port
	sync_db=$(fresh sync)/reg.db
	spawn "$work/bin/registry" serve --db "$sync_db" --addr "$copies"
	wait_for 30 curl -fsS "http://$copies/readyz"
}

# sync_file TARGET
sync_file() {
	cat <<-END
		version: 1
		creds:
		  - registry: $host
		    tls: disabled
		defaults:
		  parallel: 2
		  referrers: true
		sync:
		  - source: $host/sync/image
		    target: $1
		    type: repository
		    tags:
		      semverRange: ['>=1.1.0']
		      deny: ['2\..*-rc.*']
		  - source: $host/sync/image:edge
		    target: $1:newest
		    type: image
	END
}

sync_ours() {
	sync_file ours >"$work/ours.yaml"
	expect "3 copied, 0 the same, 0 failed" registry mirror sync --db "$sync_db" -f "$work/ours.yaml"
	expect "0 copied, 3 the same, 0 failed" registry mirror sync --db "$sync_db" -f "$work/ours.yaml"
}

sync_theirs() {
	sync_file "$copies/theirs" | sed "s/^defaults:/  - registry: $copies\n    tls: disabled\n&/" >"$work/theirs.yaml"
	regsync once -c "$work/theirs.yaml"
}

sync_compare() {
	local tag ours theirs
	ours=$(curl -fsS "http://$copies/v2/ours/tags/list" | sed 's/ours//')
	theirs=$(curl -fsS "http://$copies/v2/theirs/tags/list" | sed 's/theirs//')
	[ "$ours" = "$theirs" ] || { echo "$ours and $theirs"; return 1; }
	for tag in 1.2.0 2.0.0 newest; do
		[ "$(host=$copies digest_of ours "$tag")" = "$(host=$copies digest_of theirs "$tag")" ]
		[ -n "$(host=$copies digest_of ours "$tag")" ]
	done
	regctl registry set --tls disabled "$copies"
	for tag in ours theirs; do
		expect application/vnd.example.note regctl artifact list "$copies/$tag:1.2.0"
	done
}

sync_pull() {
	local dir
	dir=$(fresh layout)
	skopeo copy -q --all --src-tls-verify=false "docker://$copies/ours:newest" "oci:$dir:v1"
	same_blobs "$work/image" "$dir"
}
