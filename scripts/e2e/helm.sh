# helm 3 and 4: a chart there and back.

helm_steps() {
	local version
	for version in 3 4; do
		needs "helm $version" "helm$version" || continue
		step "helm $version push" helm_push "helm$version"
		step "helm $version pull" helm_pull "helm$version"
	done
}

# helm_push PROGRAM
helm_push() {
	local dir
	dir=$(fresh "$1")
	"$1" create "$dir/chart-$1"
	"$1" package "$dir/chart-$1" -d "$dir" --version 1.2.3+build.4
	"$1" push "$dir/chart-$1-1.2.3+build.4.tgz" "oci://$host/charts" --plain-http
}

# helm_pull PROGRAM
helm_pull() {
	local dir=$work/state/$1
	mkdir "$dir/pulled"
	"$1" pull "oci://$host/charts/chart-$1" --version 1.2.3+build.4 -d "$dir/pulled" --plain-http
	cmp "$dir/chart-$1-1.2.3+build.4.tgz" "$dir/pulled/chart-$1-1.2.3+build.4.tgz"
}
