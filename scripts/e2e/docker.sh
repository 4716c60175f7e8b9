# The Docker engine: pull, run, build, push, load, login.

docker_steps() {
	needs docker docker dockerd skopeo || return 0
	seed docker/image
	start_dockerd || { fail "docker" "did not start: $(grep -v level=info "$work/daemon.log" | tail -n 2)"; return 0; }
	step "docker login" docker_login
	step "docker pull" docker_pull docker/image:v1
	step "docker run" expect 'hello from linux/amd64' docker run --rm --network=none "$host/docker/image:v1"
	step "docker push" docker_push
	step "docker build on it and push" docker_build
	step "docker load and push" docker_load
	stop_pid "$dockerd_pid"
}

docker() {
	command docker -H "unix://$work/docker.sock" "$@"
}

start_dockerd() {
	local dir=$work/state/docker
	mkdir -p "$dir"
	echo '{}' >"$dir/daemon.json"
	spawn dockerd --config-file "$dir/daemon.json" --iptables=false --ip6tables=false --bridge=none \
		--storage-driver="$(docker_driver)" --data-root "$dir/data" --exec-root "$work/docker-exec" \
		--pidfile "$dir/pid" -H "unix://$work/docker.sock" --insecure-registry 127.0.0.0/8
	dockerd_pid=${daemons[-1]}
	wait_for 60 docker version
}

docker_driver() {
	if [ "$(storage_driver)" = overlay ]; then echo overlay2; else echo vfs; fi
}

# A registry without login takes any; what counts is that the engine accepts its answers.
docker_login() {
	docker login -u someone -p something "$host"
	docker logout "$host"
}

# docker_pull REF
docker_pull() {
	local container dir
	docker pull -q "$host/$1"
	dir=$(fresh docker-tree)
	container=$(docker create "$host/$1")
	docker export "$container" | tar -C "$dir" -xf -
	docker rm "$container"
	same_tree "$work/rootfs" "$dir"
}

docker_push() {
	docker tag "$host/docker/image:v1" "$host/docker/pushed:v1"
	docker push -q "$host/docker/pushed:v1"
	docker rmi "$host/docker/pushed:v1" "$host/docker/image:v1"
	docker_pull docker/pushed:v1
}

docker_build() {
	local dir
	dir=$(fresh docker-build)
	printf 'FROM %s/docker/pushed:v1\nLABEL built=yes\nCOPY note /note\n' "$host" >"$dir/Dockerfile"
	echo note >"$dir/note"
	DOCKER_BUILDKIT=0 docker build -q -t "$host/docker/built:v1" "$dir"
	docker push -q "$host/docker/built:v1"
	expect yes skopeo inspect --tls-verify=false "docker://$host/docker/built:v1"
}

docker_load() {
	local tar
	tar=$(fresh docker-load)/image.tar
	skopeo copy -q "oci:$work/image:v1" "docker-archive:$tar:$host/docker/loaded:v1"
	docker load -i "$tar"
	docker push -q "$host/docker/loaded:v1"
	docker rmi "$host/docker/loaded:v1"
	docker_pull docker/loaded:v1
}
