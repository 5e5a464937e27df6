#!/bin/sh
# serve as its users start, ask and end it, with a real model: addresses, keys, mistakes and their codes, each dialect once, signals, what is kept.
#   NOMOAT=build/nomoat TERMINAL=build/tests/terminal NOMOAT_TEST_MODELS=FOLDER tests/cli/serve.sh     TAP on stdout
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
model=${NOMOAT_TEST_MODELS:-/nowhere}/smollm2-135m-instruct-q4_1.gguf
[ -f "$model" ] || { echo '1..0 # SKIP SmolLM2 in NOMOAT_TEST_MODELS is missing'; exit 0; }
command -v curl >/dev/null 2>&1 || { echo '1..0 # SKIP curl is missing'; exit 0; }
. "$(dirname "$0")/common.sh"
unset NOMOAT_API_KEY http_proxy HTTP_PROXY all_proxy ALL_PROXY
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null; rm -rf "$work"' EXIT

# ---- a server and its clients
told() { grep -q 'serving at http' "$work/log"; }
start() {       # start ARGUMENTS...: a server on a free port; its process in $server, where it is in $url, what it says in $work/log
    : >"$work/log"
    "$NOMOAT" serve "$@" --port 0 >"$work/stdout" 2>"$work/log" </dev/null &
    server=$!
    wait_for told || return 1
    url=$(sed -n 's/.*serving at \(http[^ ,]*\).*/\1/p' "$work/log")
    port=${url##*:}
}
stop() {        # stop SIGNAL: its exit code
    kill "-$1" "$server"
    wait "$server"
    code=$?
    server=
    return "$code"
}
ask() {         # ask STATUS PATH CURL-OPTION...: that status; the body in $work/out
    wanted=$1 path=$2
    shift 2
    status=$(curl -sS -g --max-time 600 -o "$work/out" -w '%{http_code}' "$@" "$url$path" 2>"$work/err")
    [ "$status" != "$wanted" ] || return 0
    echo "# $path: $status in place of $wanted: $(head -c 300 "$work/out")"
    return 1
}
post() {        # post STATUS PATH BODY CURL-OPTION...
    wanted=$1 path=$2 body=$3
    shift 3
    ask "$wanted" "$path" -H 'Content-Type: application/json' -d "$body" "$@"
}
has() { grep -qF -- "$1" "$work/out"; }
logged() { grep -q -- "$1" "$work/log"; }
clean() { [ -z "$(tr -d '\n -~' <"$work/log")" ]; }      # nothing but printable ASCII

question='"messages": [{"role": "user", "content": "Why is the sea salt?"}]'

# ---- help
"$NOMOAT" serve --help >"$work/out" 2>"$work/err"
check 'help has examples' grep -q '^Examples:' "$work/out"

# ---- what cannot be started
refused() {     # refused CODE ARGUMENTS...
    code=$1
    shift
    ends_with "$code" serve "$@" --port 0
}
check 'no model' ends_with 2 serve
check 'an unknown model' refused 3 no-such-model
check 'an unknown flag' refused 2 "$model" --prot 1
check 'is told the nearest' says 'did you mean --port'
check 'a port out of range' ends_with 2 serve "$model" --port 65536
check 'no answers at once' refused 2 "$model" --parallel 0
check 'an alias without a name' refused 2 "$model" --alias 'claude-*'
check 'is told how' says "PATTERN=NAME"
check 'an address of another machine' refused 1 "$model" --host 192.0.2.1 --api-key-file /proc/sys/kernel/ostype
check 'no address' refused 2 "$model" --host 'no such host'
check 'the network without a key' refused 6 "$model" --host 0.0.0.0
check 'is told of the key' says '--api-key-file'
check 'nor by IPv6' refused 6 "$model" --host ::
printf ' \n' >"$work/empty"
check 'a key file without a key' refused 2 "$model" --api-key-file "$work/empty"
printf 'two words\n' >"$work/words"
check 'a key with white space in it' refused 2 "$model" --api-key-file "$work/words"
printf 'ab\0cd\n' >"$work/cut"
check 'a key with a zero in it' refused 2 "$model" --api-key-file "$work/cut"
printf '\0\0' >"$work/zeros"
check 'a key of zeros' refused 2 "$model" --api-key-file "$work/zeros"
check 'no key file' refused 3 "$model" --api-key-file "$work/none"
check 'more memory than a model has' refused 2 "$model" --memory much
check 'control characters in a name' refused 3 "$(printf 'a\033[31mb')"
check 'are written out' says 'a\\x1b\[31mb'

# ---- answers
check 'it starts and tells where' start "$model"
check 'on standard error alone' test ! -s "$work/stdout"
busy_port() { ends_with 1 serve "$model" --port "$port"; }
check 'a port that is taken' busy_port
check 'is told by whom' says "taken by nomoat (process $server)"
check 'and what is free' says '--port [0-9]*, which is free'
"$NOMOAT" run "$model" --temp 0 -n 12 'Why is the sea salt?' >"$work/same" 2>"$work/err" </dev/null
same() { has "\"$(cat "$work/same")\""; }
check 'OpenAI' post 200 /v1/chat/completions "{$question, \"max_tokens\": 12, \"temperature\": 0}"
check 'answers what run does' same
check 'OpenAI, responses' post 200 /v1/responses '{"input": "Why is the sea salt?", "max_output_tokens": 12, "temperature": 0}'
check 'answers the same' same
check 'Anthropic' post 200 /v1/messages "{\"model\": \"smollm2-135m-instruct-q4_1\", $question, \"max_tokens\": 12, \"temperature\": 0}"
check 'answers the same' same
check 'Ollama' post 200 /api/chat "{\"model\": \"smollm2-135m-instruct-q4_1\", $question, \"stream\": false, \"options\": {\"num_predict\": 12, \"temperature\": 0}}"
check 'answers the same' same
check 'llama.cpp' post 200 /apply-template "{$question}"
check 'renders' has 'Why is the sea salt?'
"$NOMOAT" run "$model" --raw --temp 0 -n 12 'The capital of France is' >"$work/same.raw" 2>"$work/err" </dev/null
check 'llama.cpp, completion' post 200 /completion '{"prompt": "The capital of France is", "n_predict": 12, "temperature": 0}'
raw() { has "$(head -n 1 "$work/same.raw")"; }
check 'answers what run --raw does' raw
streamed() {
    post 200 /v1/chat/completions "{$question, \"max_tokens\": 12, \"temperature\": 0, \"stream\": true}" &&
        [ "$(tail -n 2 "$work/out")" = 'data: [DONE]' ] &&
        [ "$(sed -n 's/.*"delta":{"content":"\([^"]*\)".*/\1/p' "$work/out" | tr -d '\n')" = "$(cat "$work/same")" ]
}
check 'a stream is the same text' streamed
check 'health' ask 200 /health
check 'the page' ask 200 / -H 'Accept: text/html'
check 'is one' has '<html'
check 'others are told what Ollama says' ask 200 /
check 'namely' has 'Ollama is running'
check 'the list' ask 200 /v1/models
check 'has the model' has '"id":"smollm2-135m-instruct-q4_1"'

# ---- refusals
check 'an unknown model is 404' post 404 /v1/chat/completions "{\"model\": \"gpt-9\", $question}"
check 'a path is no model' post 404 /v1/chat/completions "{\"model\": \"$model\", $question}"
check 'no JSON is 400' post 400 /v1/chat/completions '{"messages": '
check 'no such path is 404' ask 404 /v2/nothing
check 'another method is 405' ask 405 /v1/chat/completions
check 'another host is 403' ask 403 /v1/models -H 'Host: evil.example'
check 'names the flag' has '--allow-host'
check 'an address is none' ask 200 /v1/models -H "Host: 192.0.2.1:$port"
check 'another origin is 403' post 403 /tokenize '{"content": "x"}' -H 'Origin: https://evil.example'
check 'names the flag' has '--cors'
check 'its own is not' post 200 /tokenize '{"content": "x"}' -H "Origin: $url"
unread() { ask 200 /v1/models -H 'Origin: https://evil.example' -D "$work/heads" && ! grep -qi '^access-control' "$work/heads"; }
check 'and what only reads, another may ask, but not read' unread
check 'a path with dots is 400' ask 400 '/nm/../../etc/passwd' --path-as-is
check 'a wrong number is 400' post 400 /v1/chat/completions "{$question, \"temperature\": \"hot\"}"
check 'control characters in a request' post 404 /v1/chat/completions "{\"model\": \"a\\u001b[31mb\", $question}"
check 'in its path' ask 404 '/v1/%C2%9B31m'
check 'reach no terminal' clean
check 'and no prompt is in the log' test -z "$(grep -iE 'sea|salt|France' "$work/log")"

# ---- the end
long() { echo "{\"prompt\": \"Once upon a time\", \"max_tokens\": $1, \"temperature\": 0, \"stream\": true, \"ignore_eos\": true}"; }
stream_to() {   # stream_to FILE BODY: in the background, in $reader
    rm -f "$1"
    curl -sSN --max-time 600 -H 'Content-Type: application/json' -d "$2" "$url/v1/completions" >"$1" 2>"$work/err" &
    reader=$!
}
flows() { grep -q "^data: " "$1" 2>/dev/null; }
is_over() { grep -q '^data: .DONE' "$work/stream"; }
ends_streams() {        # ends_streams SIGNAL: what is under way comes to its end, then the program
    for tokens in 150 600 2400; do      # a short one may be over before this is seen
        stream_to "$work/stream" "$(long $tokens)"
        wait_for flows "$work/stream" || return 1
        is_over || break
        wait "$reader"
    done
    flowing=$(tail -n 1 "$work/stream")
    stop "$1" || { echo "# exit code $code"; return 1; }
    wait "$reader" || return 1
    [ "$flowing" != 'data: [DONE]' ] && [ "$(tail -n 2 "$work/stream")" = 'data: [DONE]' ]
}
check 'SIGTERM lets a stream end, and is exit 0' ends_streams TERM
check 'which it tells' logged 'ending what is under way'
start "$model"
check 'Ctrl-C, too' ends_streams INT
start "$model"
endless='{"prompt": "Once upon a time", "max_tokens": 8000, "stream": true, "ignore_eos": true}'
ending() { logged 'ending what'; }
ends_at_once() {
    stream_to "$work/stream" "$endless"
    wait_for flows "$work/stream" || return 1
    kill -TERM "$server"
    wait_for ending || return 1
    sleep 0.2
    kill -0 "$server" || return 1       # it waits for the stream
    stop TERM
    [ "$code" -eq 143 ] || { echo "# exit code $code"; return 1; }
    ! wait "$reader" && ! grep -q 'DONE' "$work/stream"
}
check 'a second signal ends at once' ends_at_once

# ---- what is kept, and a key
start "$model"
chat='{"title": "Of salt", "model": "m", "created": 1, "updated": 2, "leaf": "b", "messages": [
    {"id": "a", "role": "user", "content": "Why is the sea salt?"}, {"id": "b", "parent": "a", "role": "assistant", "content": "Rivers."}]}'
unkept() { ask 503 /nm/chats; }
if unkept >"$work/why" 2>&1; then
    check 'without SQLite nothing is kept, and clients are told' has 'built without SQLite'
    check 'with the word for programs' has not_kept
    check 'so is the user' logged 'conversations are not kept'
    check 'votes, too' post 503 /nm/votes '{}'
    check 'but no method that there is not' ask 405 /nm/votes -X DELETE
    check 'nor path' ask 404 /nm/nothing
    check 'personas are kept' post 200 /nm/personas/terse '{"model": "", "system": "S", "settings": {}}' -X PUT
    check 'the page is there all the same' ask 200 / -H 'Accept: text/html'
else
    check 'a conversation is put' post 200 /nm/chats/one "$chat" -X PUT
    stop KILL
    check 'after SIGKILL' test "$code" -eq 137
    start "$model" --cors http://page.example --allow-host models.example
    check 'it is there' ask 200 /nm/chats/one
    check 'as a whole' has '"content":"Rivers."'
    check 'readable by the user alone' test -z "$(find "$HOME/.local/share/nomoat" -name 'chats.db*' -perm /077)"
fi
stop TERM
start "$model" --cors http://page.example --allow-host models.example
check 'a host that is allowed' ask 200 /v1/models -H 'Host: models.example'
allowed() { ask 200 /v1/models -H 'Origin: http://page.example' -D "$work/heads" && grep -qi '^access-control-allow-origin: http://page.example' "$work/heads"; }
check 'an origin that is named' allowed

# ---- a persona with a model's name, which nobody can ask for
named=smollm2-135m-instruct-q4_1
once() { [ "$(grep -ic "persona $named is hidden by the model" "$work/log")" -eq 1 ]; }
one() { [ "$(grep -io "\"id\":\"$named\"" "$work/out" | wc -l)" -eq 1 ]; }
check 'the page is told so' post 409 /nm/personas/$named '{"system": "Be brief."}' -X PUT
check 'and why' has 'a model of that name'
"$NOMOAT" save SmolLM2-135M-instruct-q4_1 "$model" >/dev/null 2>"$work/err"      # which knows of no server
check 'one that was saved meanwhile' ask 200 /v1/models
check 'is not listed' one
ask 200 /v1/models
check 'and told of once' once
stop TERM
start "$model"
check 'and at the next start' once
"$NOMOAT" rm SmolLM2-135M-instruct-q4_1 >/dev/null 2>"$work/err"
stop TERM
printf '\n  secret-key \n' >"$work/key"
chmod 600 "$work/key"
check 'with a key, for the network' start "$model" --host 0.0.0.0 --api-key-file "$work/key"
url=http://127.0.0.1:$port
check 'which it tells' logged 'who know the key'
silent() { ! logged 'can read'; }
check 'and nothing of a file that nobody else can read' silent
check 'without it 401' ask 401 /v1/models
check 'with another' ask 401 /v1/models -H 'Authorization: Bearer secret-kez'
check 'with a part' ask 401 /v1/models -H 'Authorization: Bearer secret'
check 'with it' ask 200 /v1/models -H 'Authorization: Bearer secret-key'
check 'as Anthropic has it' ask 200 /v1/models -H 'x-api-key: secret-key'
check 'the page can be loaded without' ask 200 / -H 'Accept: text/html'
check 'and health' ask 200 /health
check 'not the conversations' ask 401 /nm/chats
no_key() { ! logged secret && ! tr '\0' ' ' <"/proc/$server/cmdline" | grep -q secret; }
check 'the key is not in the log' no_key
stop TERM
chmod 644 "$work/key"
check 'a key that everybody can read' start "$model" --api-key-file "$work/key"
check 'is told' logged 'can read the key'
stop TERM
variable() { NOMOAT_API_KEY=other start "$model" && ask 401 /v1/models && ask 200 /v1/models -H 'Authorization: Bearer other'; }
check 'a key from the environment' variable
stop TERM
finish
