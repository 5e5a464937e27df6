#!/bin/sh
# Two servers behind Debian's haproxy with share/haproxy.cfg, or its nginx with share/nginx.conf: requests spread, a stream is not held back, a browser stays
# where it is, who leaves frees its server, one server's death is survived.
#   NOMOAT=build/nomoat tests/clients/proxy.sh haproxy|nginx MODEL.gguf     TAP on stdout; needs the proxy and curl
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
proxy=${1:-}
model=${2:-}
case $proxy in
    haproxy) file=haproxy.cfg ;;
    nginx) file=nginx.conf ;;
    *) model= ;;
esac
[ -f "$model" ] || { echo 'usage: NOMOAT=build/nomoat tests/clients/proxy.sh haproxy|nginx MODEL.gguf' >&2; exit 2; }
PATH=$PATH:/usr/sbin
. "$(dirname "$0")/../cli/common.sh"
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY
export NOMOAT_API_KEY=secret-key
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
direct() { curl -sS -H "Authorization: Bearer $NOMOAT_API_KEY" "http://$(url "$1")$2"; }
exec=           # of a subshell that is to become curl
through() {     # through PATH CURL-OPTION...: the proxy
    path=$1
    shift
    ${exec:-} curl -sS --max-time 600 -H "Authorization: Bearer $NOMOAT_API_KEY" "$@" "http://127.0.0.1:$port$path"
}
status_of() { through "$@" -o /dev/null -w '%{http_code}'; }
up() { [ "$(status_of /health 2>/dev/null)" = 200 ]; }
tell() {    # tell TOKENS FILE CURL-OPTION...
    tokens=$1 to=$2
    shift 2
    through /v1/completions -H 'Content-Type: application/json' "$@" \
        -d "{\"prompt\": \"Once upon a time\", \"max_tokens\": $tokens, \"temperature\": 0, \"stream\": ${streams:-true}, \"ignore_eos\": true}" >"$to" 2>>"$work/err"
}
is_whole() { [ "$(tail -n 2 "$1")" = 'data: [DONE]' ]; }
requests() { direct "$1" /metrics | sed -n 's/^nomoat:requests_total //p'; }
working() { direct "$1" /slots | grep -q '"is_processing":true'; }

# ---- the proxy
run_haproxy() {
    check 'haproxy takes the configuration' haproxy -c -q -f "$work/$file"
    haproxy -db -f "$work/$file" >"$work/proxy.log" 2>&1 &
}
run_nginx() {   # the file is a part of one; as root its workers are another user's, who may not write here
    printf 'user root;\npid %s/pid;\nevents {}\nhttp {\naccess_log off;\nclient_body_temp_path %s/bodies;\ninclude %s;\n}\n' "$work" "$work" "$work/$file" >"$work/main.conf"
    check 'nginx takes the configuration' nginx -q -t -c "$work/main.conf" -e "$work/proxy.log"
    nginx -c "$work/main.conf" -e "$work/proxy.log" -g 'daemon off; master_process off;' 2>/dev/null &
}
start one && start two
check 'two servers are there' [ -s "$work/two.url" ]
free_port
sed -e "s/:11480/:$port/" -e "s/:11500/:$(url one | sed 's/.*://')/" -e "s/:11501/:$(url two | sed 's/.*://')/" \
    "$(dirname "$0")/../../share/$file" >"$work/$file"
"run_$proxy"
pids="$pids $!"
check 'and stands before them' wait_for up

host() { [ "$(status_of /v1/models -H "Host: $1")" = "$2" ]; }
check 'its name reaches them' host models.example 200
check 'and no other' host evil.example 403
keyless() { [ "$(curl -sS --max-time 60 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/v1/models")" = 401 ]; }
check 'nor who has no key' keyless

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

stays() {
    through / -H 'Accept: text/html' -c "$work/cookies" -o /dev/null || return 1
    before=$(requests one)
    for i in 1 2 3 4; do tell 1 "$work/stays.$i" -b "$work/cookies"; done
    more=$(($(requests one) - before))
    echo "# $more of 4 went to the first"
    [ "$more" -eq 0 ] || [ "$more" -eq 4 ]
}
check 'a browser stays with one' stays

at_work() { working one || working two; }
at_rest() { ! at_work; }
frees() {       # an answer that is not streamed: nothing was sent yet when its client leaves
    (streams=false exec=exec && tell 8000 /dev/null) &
    reader=$!
    wait_for at_work || return 1
    kill "$reader"
    wait "$reader"
    tries=200       # far fewer than such an answer takes
    until at_rest; do [ $((tries -= 1)) -gt 0 ] || return 1; sleep 0.1; done
}
check 'who leaves frees its server' frees

flows() { grep -qs '^data: ' "$1"; }
unbuffered() {
    tell 1000 "$work/long" &
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
moves() { tell 2 "$work/moves" -b "$work/cookies" && is_whole "$work/moves"; }
check 'and its browsers' moves
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
