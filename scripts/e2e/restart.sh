# The server is killed in the middle of a chunked push and started again; the push goes on where
# it was acknowledged, and what had been pushed before is whole. Only with a server of our own.

resume_mb=64

restart_steps() {
	[ -f "$work/registry.pid" ] || { skip "restart" "the server is not ours"; return 0; }
	needs restart skopeo || return 0
	. "$here/skopeo.sh" # for its pull
	step "push before the kill" seed restart/image
	step "kill -9 in a chunked push, resume" kill_and_resume
	step "pull after the kill" skopeo_pull restart/image:v1
}

# The client kills the server when half of its second chunk is out; this starts it again.
kill_and_resume() {
	local server client
	server=$(cat "$work/registry.pid")
	orasclient resume "$host/restart/resumed" "$server" "$resume_mb" &
	client=$!
	wait_for 60 process_gone "$server"
	restart_registry
	wait "$client"
}
