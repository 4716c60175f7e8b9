# What the clients have pushed is still whole after the collector has taken everything it may, and in a backup: images,
# indexes, charts, signatures in both forms, build caches. Last, and only with a server of our own.

maintenance_steps() {
	[ -f "$work/registry.pid" ] || { skip "maintenance" "the server is not ours"; return 0; }
	needs maintenance jq curl || return 0
	step "take stock" take_stock before
	step "collect beside the server" collect
	step "everything a tag reaches is there" stock_is_whole
	step "check every byte" registry_on "$work/registry" check --read-data
	step "back up beside the server" registry_on "$work/registry" backup "$work/backup"
	step "check the backup" registry_on "$work/backup" check --read-data
}

# registry_on DIR COMMAND [ARG...] runs a command of the registry in a directory.
registry_on() {
	local dir=$1 command=$2; shift 2
	"$work/bin/registry" "$command" --db "$dir/reg.db" "$@"
}

collect() {
	registry_on "$work/registry" gc --grace 0 --force --untagged-after 0 --json | tee "$work/collected"
	# Clients have deleted tags and left images without one: a collector that does nothing is no proof.
	[ "$(jq .manifests "$work/collected")" -gt 0 ]
}

# take_stock FILE lists everything that tags reach, through indexes and referrers.
take_stock() {
	local repository tag
	"$work/bin/registry" tag list --db "$work/registry/reg.db" --json '**' | jq -r '.[] | .repository + " " + .name' >"$work/tags"
	while read -r repository tag; do
		reached "$repository" "$tag"
	done <"$work/tags" | sort -u >"$work/stock.$1"
	[ "$(wc -l <"$work/stock.$1")" -gt 50 ]
}

# reached REPOSITORY REFERENCE prints a manifest and what it reaches; it fails if something is not there.
reached() {
	local repository=$1 reference=$2 content digest type
	content=$(curl -fsS -H 'Accept: */*' "http://$host/v2/$repository/manifests/$reference")
	digest=sha256:$(curl -fsS -H 'Accept: */*' "http://$host/v2/$repository/manifests/$reference" | sha256sum | cut -c 1-64)
	echo "$repository manifest $digest"
	jq -r '(.config // empty, .layers[]?) | .digest' <<<"$content" | while read -r blob; do stored "$repository" "$blob"; done
	# Some indexes, those of build caches, have blobs where others have manifests.
	jq -r '.manifests[]? | .digest + " " + (.mediaType // "")' <<<"$content" | while read -r child type; do
		case $type in
		*manifest* | *index*) reached "$repository" "$child" ;;
		*) stored "$repository" "$child" ;;
		esac
	done
	curl -fsS "http://$host/v2/$repository/referrers/$digest" | jq -r '.manifests[].digest' | while read -r referrer; do
		reached "$repository" "$referrer"
	done
}

stored() {
	curl -fsSI -o /dev/null "http://$host/v2/$1/blobs/$2"
	echo "$1 blob $2"
}

stock_is_whole() {
	take_stock after
	diff "$work/stock.before" "$work/stock.after"
}
