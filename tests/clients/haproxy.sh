#!/bin/sh
# Two servers behind Debian's haproxy with share/haproxy.cfg: requests spread, a stream is not held back, one server's death is survived.
#   NOMOAT=build/nomoat tests/clients/haproxy.sh MODEL.gguf     TAP on stdout; needs haproxy and curl
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
[ -f "${1:-}" ] || { echo 'usage: NOMOAT=build/nomoat tests/clients/haproxy.sh MODEL.gguf' >&2; exit 2; }
model=$1
PATH=$PATH:/usr/sbin
. "$(dirname "$0")/../cli/common.sh"
unset NOMOAT_API_KEY http_proxy HTTP_PROXY all_proxy ALL_PROXY
pids=
trap 'for pid in $pids; do kill -9 "$pid"; done 2>/dev/null; rm -rf "$work"' EXIT

serving() { grep -qs 'serving at http' "$1"; }
start() {       # start NAME: a server; its process in $NAME.pid, where it is in $NAME.url
    XDG_DATA_HOME=$work/$1.data "$NOMOAT" serve "$model" --port 0 --allow-host models.example >/dev/null 2>"$work/$1.log" </dev/null &
    echo $! >"$work/$1.pid"
    pids="$pids $!"
    wait_for serving "$work/$1.log" && sed -n 's/.*serving at http:\/\/\([^ ,]*\).*/\1/p' "$work/$1.log" >"$work/$1.url"
}
url() { cat "$work/$1.url"; }
free_port() {   # one that was free a moment ago, in $port
    start probe
    port=$(url probe | sed 's/.*://')
    kill -9 "$(cat "$work/probe.pid")"
}
through() {     # through PATH CURL-OPTION...: the proxy
    path=$1
    shift
    curl -sS --max-time 60 "$@" "http://127.0.0.1:$port$path"
}
up() { [ "$(through /health -o /dev/null -w '%{http_code}' 2>/dev/null)" = 200 ]; }
tell() {    # tell TOKENS FILE CURL-OPTION...
    tokens=$1 file=$2
    shift 2
    through /v1/completions -H 'Content-Type: application/json' "$@" \
        -d "{\"prompt\": \"Once upon a time\", \"max_tokens\": $tokens, \"temperature\": 0, \"stream\": true, \"ignore_eos\": true}" >"$file" 2>>"$work/err"
}
is_whole() { [ "$(tail -n 2 "$1")" = 'data: [DONE]' ]; }
requests() { curl -sS "http://$(url "$1")/metrics" | sed -n 's/^nomoat:requests_total //p'; }

start one && start two
check 'two servers are there' [ -s "$work/two.url" ]
free_port
sed -e "s/127.0.0.1:11480/127.0.0.1:$port/" -e "s/127.0.0.1:11500/$(url one)/" -e "s/127.0.0.1:11501/$(url two)/" "$(dirname "$0")/../../share/haproxy.cfg" >"$work/haproxy.cfg"
check 'haproxy takes the configuration' haproxy -c -q -f "$work/haproxy.cfg"
haproxy -db -f "$work/haproxy.cfg" >"$work/haproxy.log" 2>&1 &
pids="$pids $!"
check 'and stands before them' wait_for up

host() { [ "$(through /v1/models -o /dev/null -w '%{http_code}' -H "Host: $1")" = "$2" ]; }
check 'its name reaches them' host models.example 200
check 'and no other' host evil.example 403

spread() {
    readers=
    for i in 1 2 3 4 5 6; do
        tell 30 "$work/stream.$i" &
        readers="$readers $!"
    done
    for reader in $readers; do wait "$reader" || return 1; done
    for i in 1 2 3 4 5 6; do is_whole "$work/stream.$i" || return 1; done
    echo "# $(requests one) and $(requests two) requests"
    [ "$(requests one)" -ge 2 ] && [ "$(requests two)" -ge 2 ]
}
check 'requests spread over both' spread

flows() { grep -qs '^data: ' "$1"; }
working() { curl -sS "http://$(url "$1")/slots" | grep -q '"is_processing":true'; }
unbuffered() {
    tell 200 "$work/long" &
    reader=$!
    wait_for flows "$work/long" || return 1
    if working one; then busy=one idle=two; else busy=two idle=one; fi
    working "$busy" || { echo '# the first words came when all was over'; return 1; }
}
check 'a stream is not held back' unbuffered
kill -9 "$(cat "$work/$idle.pid")"
wait "$(cat "$work/$idle.pid")" 2>/dev/null
survived() {
    for i in 1 2 3 4; do
        tell 2 "$work/after.$i"
        is_whole "$work/after.$i" || return 1
    done
}
check 'when one dies, the next requests are answered' survived
ends() { wait "$reader" && is_whole "$work/long"; }
check 'and the stream of the other goes on to its end' ends
broken() {
    kill -9 "$(cat "$work/$busy.pid")"
    case $(tell 2 /dev/stdout -o /dev/null -w '%{http_code}') in
        502 | 503) ;;
        *) return 1 ;;
    esac
}
check 'without any the proxy says that there is none' broken
finish
