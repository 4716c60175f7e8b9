# Helpers for the scripts that start a server of their own. To be sourced by bash with `set -eu`.

# free_port prints a loopback port nobody listens on.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 12000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
	done
}

# wait_for SECONDS COMMAND... runs the command until it succeeds; fails when the time is up.
wait_for() {
	local deadline=$((SECONDS + $1)); shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$deadline" ] || { echo "gave up waiting for: $*" >&2; return 1; }
		sleep 0.05
	done
}

# start_registry BINARY DIR PORT [FLAG...] runs the server on DIR in the background, sets
# registry_pid and returns when it answers. Its log is DIR/registry.log.
start_registry() {
	local binary=$1 dir=$2 port=$3; shift 3
	mkdir -p "$dir"
	"$binary" serve --db "$dir/reg.db" --addr "127.0.0.1:$port" "$@" >>"$dir/registry.log" 2>&1 &
	registry_pid=$!
	disown "$registry_pid" # no word from bash when it is killed
	if ! wait_for 20 registry_answers "$port" || process_gone "$registry_pid"; then
		tail -n 20 "$dir/registry.log" >&2
		return 1
	fi
}

# registry_answers says yes as soon as /v2/ does, or the server has died: both end the waiting.
registry_answers() {
	kill -0 "$registry_pid" 2>/dev/null || return 0
	curl -s -o /dev/null "http://127.0.0.1:$1/v2/"
}

# stop_pid PID [SIGNAL] ends one process of ours and waits until it is gone.
stop_pid() {
	kill -s "${2:-TERM}" "$1" 2>/dev/null || return 0
	wait_for 30 process_gone "$1" || kill -s KILL "$1"
}

process_gone() {
	! kill -0 "$1" 2>/dev/null || grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null
}
