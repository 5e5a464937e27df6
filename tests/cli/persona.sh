#!/bin/sh
# save, and personas wherever a MODEL is typed: run, show, list, rm; Modelfiles. With a tiny model, whose answers are letters at random but always the same.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
model=${NOMOAT_TEST_DATA:-}/tiny/llama.gguf
if [ ! -f "$model" ]; then
    skip 'personas' NOMOAT_TEST_DATA
    finish
fi
store=$HOME/.local/share/nomoat/personas
run() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -qF -- "$1" "$work/out"; }
run import "$model" --name tiny

# ---- from options
chatml="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
check 'save' run save brief tiny --system 'Be brief.' --temp 0 -n 5 --seed 7 --stop '\n\n' --template "$chatml"
check 'tells how to use it' has 'nomoat run brief'
expected="FROM tiny
PARAMETER temperature 0
PARAMETER num_predict 5
PARAMETER seed 7
PARAMETER stop \"\"\"

\"\"\"
TEMPLATE $chatml
SYSTEM Be brief."
check 'show prints the Modelfile' prints "$expected" show brief
check 'which is the file' test "$expected" = "$(cat "$store/brief")"
check 'as JSON' run show brief --json
check 'with its name' has '"name": "brief", "path": "'
check 'letter case does not matter, nor :latest' prints "$expected" show Brief:latest
check 'show --template looks at its model' run show brief --tensors
check 'list has it' run list
check 'with its model' grep -q '^brief  *tiny$' "$work/out"
check 'list --json, too' run list --json
check 'as a persona' has '"personas": [{"name": "brief",'
check 'list --names' run list --names
check 'for completion' has brief

# ---- run
same_answer() {     # same_answer PERSONA-ARGUMENTS -- MODEL-ARGUMENTS: the same prompt and the same answer
    set -- "$@"
    first=
    while [ "$1" != -- ]; do first="$first $1"; shift; done
    shift
    # shellcheck disable=SC2086
    "$NOMOAT" run $first --json 2>"$work/err" </dev/null | sed 's/"timings".*//' >"$work/a" || return 1
    "$NOMOAT" run "$@" --json 2>"$work/err" </dev/null | sed 's/"timings".*//' >"$work/b" || return 1
    { [ -s "$work/a" ] && cmp -s "$work/a" "$work/b"; } || { echo "# $(cat "$work/a") / $(cat "$work/b")"; return 1; }
}
check 'run answers as the options would' same_answer brief Hello -- tiny Hello -sys 'Be brief.' --temp 0 -n 5 --seed 7 --template "$chatml"
check 'options win' same_answer brief Hello -n 9 -sys Shout -- tiny Hello -sys Shout --temp 0 -n 9 --seed 7 --template "$chatml"
check '-n -1, too' same_answer brief Hello -n -1 -c 64 -- tiny Hello -sys 'Be brief.' --temp 0 -c 64 --seed 7 --template "$chatml" --stop '\n\n'
check '--raw leaves the conversation out' same_answer brief --raw Hello -- tiny --raw Hello --temp 0 -n 5 --seed 7
check 'a persona has no own personas' ends_with 2 save more brief
check 'is told what to name' says 'name the model, tiny'
check 'other commands see its model' run tokenize brief --json
printf '%s' '{"messages": [{"role": "user", "content": "Hi"}]}' >"$work/vars"
own_template() { "$NOMOAT" template brief <"$work/vars" >"$work/out" && has '<user>Hi<assistant>'; }
check 'template takes its own' own_template
check 'a mistyped name' ends_with 3 run nobody Hello

# ---- Modelfiles
mkdir "$work/there"
cp "$model" "$work/there/own.gguf"
cat >"$work/there/Modelfile" <<'END'
# A comment stays.
from ./own.gguf
Parameter temperature 0
PARAMETER num_predict 5
PARAMETER seed 7
PARAMETER num_thread 8
PARAMETER stop "<END>"
LICENSE """
FROM the lawyers
"""
SYSTEM """
You are
two lines."""
MESSAGE user One?
MESSAGE assistant "Two
lines."
END
printf 'TEMPLATE "%s"\n' "$chatml" >>"$work/there/Modelfile"
check 'save -f' run save filed -f "$work/there/Modelfile"
there=$(cd "$work/there" && pwd -P)
check 'is the file, but for its paths' prints "$(sed "s,^from .*,from $there/own.gguf," "$work/there/Modelfile")" show filed
messages='{"messages": [{"role": "system", "content": "\nYou are\ntwo lines."}, {"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two\nlines."}, {"role": "user", "content": "Hello"}]}'
printf '%s' "$chatml" >"$work/chat.jinja"
printf '%s' "$messages" | "$NOMOAT" template "$work/chat.jinja" >"$work/prompt"
prompt_is() {
    "$NOMOAT" run filed Hello --json >"$work/a" 2>"$work/err" </dev/null && "$NOMOAT" tokenize tiny --json <"$work/prompt" >"$work/b" &&
        [ "$(sed 's/.*"prompt_tokens": \([0-9]*\),.*/\1/' "$work/a")" = "$(tr -cd , <"$work/b" | wc -c | awk '{ print $1 + 1 }')" ]
}
check 'messages come before the question' prompt_is
check 'from standard input' sh -c "printf 'FROM tiny\n' | '$NOMOAT' save piped -f - >'$work/out'"
printf 'FROM tiny\nTEMPLATE "{{ .Prompt }}"\n' >"$work/go"
check "a template in Go's language" run save go -f "$work/go"
check 'is told of' says "Go's language"
bad() {         # bad LINE TEXT: refused with that line
    printf '%b' "$2" >"$work/bad"
    ends_with 4 save bad -f "$work/bad" && says "bad:$1: " && [ ! -e "$store/bad" ]
}
check 'an unknown instruction' bad 2 'FROM tiny\nFORM tiny\n'
check 'an unknown parameter' bad 2 'FROM tiny\nPARAMETER heat 1\n'
check 'a number out of range' bad 3 'FROM tiny\n\nPARAMETER top_p 2\n'
check 'open quotes' bad 2 'FROM tiny\nSYSTEM """x\n'
check 'a template that is none' bad 2 'FROM tiny\nTEMPLATE chatml\n'
printf 'SYSTEM x\n' >"$work/bad"
check 'no FROM' ends_with 4 save bad -f "$work/bad"
printf 'FROM no-such\n' >"$work/bad"
check 'an unknown model' ends_with 3 save bad -f "$work/bad"
printf 'FROM tiny\nTEMPLATE {%% if %%}\n' >"$work/bad"
not_a_template() { ! run save bad -f "$work/bad" && [ ! -e "$store/bad" ]; }
check 'a template with a mistake' not_a_template
check 'a missing file' ends_with 3 save bad -f "$work/none"
check 'options beside -f' ends_with 2 save bad -f "$work/go" --temp 1
check 'a model beside -f' ends_with 2 save bad tiny -f "$work/go"
check 'neither' ends_with 2 save bad

# ---- served
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null; rm -rf "$work"' EXIT
unset NOMOAT_API_KEY http_proxy HTTP_PROXY all_proxy ALL_PROXY
told() { grep -q 'serving at http' "$work/log"; }
serve() {       # serve MODEL OPTION...
    "$NOMOAT" serve "$@" --port 0 >"$work/stdout" 2>"$work/log" </dev/null &
    server=$!
    wait_for told && url=$(sed -n 's/.*serving at \(http[^ ,]*\).*/\1/p' "$work/log")
}
ask() {         # ask PATH BODY
    curl -sS -g --max-time 600 -H 'Content-Type: application/json' -d "$2" "$url$1" >"$work/out" 2>"$work/err"
}
hello='"messages": [{"role": "user", "content": "Hello"}]'
rendered() {    # rendered TEXT BODY: the prompt of such a request
    { ask /apply-template "$2" && has "{\"prompt\":\"$1\"}"; } || { echo "# $(cat "$work/out")"; return 1; }
}
if "$NOMOAT" help serve >"$work/out" 2>&1 && command -v curl >"$work/out"; then
    check 'serve' serve brief -c 100000
    check 'a persona is the default' rendered '<system>Be brief.<user>Hello<assistant>' "{$hello}"
    check 'its messages come behind the system message' rendered '<system>\nYou are\ntwo lines.<user>One?<assistant>Two\nlines.<user>Hello<assistant>' "{\"model\": \"filed\", $hello}"
    check "a request's own system message wins" rendered '<system>S<user>One?<assistant>Two\nlines.<user>Hello<assistant>' \
        '{"model": "filed", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hello"}]}'
    check 'sampling and limits are its own' ask /v1/chat/completions "{\"model\": \"brief\", $hello}"
    limited() { has '"completion_tokens":5,' && has '"model":"brief"'; }
    check 'namely five tokens' limited
    check 'unless the request says' ask /v1/chat/completions "{\"model\": \"brief\", $hello, \"max_tokens\": 2}"
    check 'two' has '"completion_tokens":2,'
    check 'the list' curl -sS -o "$work/out" "$url/v1/models"
    check 'has personas' has '"kind":"persona"'
    check 'nothing of the owners paths' test -z "$(grep -F "$work" "$work/out")"
    check 'those whose model is open are loaded' grep -q '"id":"brief"[^{}]*"loaded":true' "$work/out"
    check 'the page keeps one' curl -sS -o "$work/out" -X PUT -H 'Content-Type: application/json' "$url/nm/personas/paged" \
        -d '{"model": "tiny", "system": "S", "settings": {"max_tokens": 3, "temperature": 0, "seed": 1}}'
    check 'which is a Modelfile' prints 'FROM tiny
PARAMETER temperature 0
PARAMETER num_predict 3
PARAMETER seed 1
SYSTEM S' show paged
    check 'a model' ask /v1/chat/completions "{\"model\": \"paged\", $hello}"
    check 'with its limit' has '"completion_tokens":3,'
    check 'in each dialect' ask /api/chat "{\"model\": \"paged\", \"stream\": false, $hello}"
    check 'of three tokens' has '"eval_count":3'
    check 'run answers with it' same_answer paged Hello -- tiny Hello -sys S --temp 0 -n 3 --seed 1
    check 'list has it' run list
    check 'with the model' grep -q '^paged  *tiny$' "$work/out"
    check 'the page lists all' curl -sS -o "$work/out" "$url/nm/personas"
    check 'and what it cannot say by name' has '{"name":"brief","system":"Be brief.","settings":{"temperature":0.0,"max_tokens":5,"seed":7},"model":"brief"}'
    check 'and removes one' curl -sS -o "$work/out" -X DELETE "$url/nm/personas/paged"
    check 'from the store' ends_with 3 show paged
    check 'a large context is told of' grep -q 'context 100000 is more than' "$work/log"
    check 'a path to one' ask /v1/chat/completions "{\"model\": \"../personas/filed\", $hello}"
    check 'is no name' has model_not_found
    kill "$server"
    wait "$server"
    server=

    # ---- with an adapter on it
    awk 'BEGIN { for (i = 0; i < 8; i++) printf "{\"prompt\": \"Hello %d\", \"completion\": \"abc\"}\n", i }' >"$work/data.jsonl"
    check 'an adapter' run tune tiny "$work/data.jsonl" --format alpaca --max-steps 8 --lr 0.05 -r 4 --val 0 --meter 0 --no-anchor -o style
    lists() { curl -sS -g -o "$work/out" "$url$1" && grep -q -- "$2" "$work/out"; }
    answers() {     # answers NAME [MEMBERS]: what run says to that name, under that name; of bytes that are no text, JSON has something else
        "$NOMOAT" run "$1" Hello 2>"$work/err" </dev/null | LC_ALL=C tr -cd ' -~' >"$work/same"
        { ask /v1/chat/completions "{${2:-\"model\": \"$1\",} $hello}" && LC_ALL=C tr -cd ' -~' <"$work/out" >"$work/plain" &&
            [ -s "$work/same" ] && has "\"model\":\"$1\"" && grep -qF -- "\"content\":\"$(cat "$work/same")\"" "$work/plain"; } || { echo "# $(cat "$work/same" "$work/plain")"; return 1; }
    }
    check 'serve a persona with an adapter' serve brief+style
    check 'it is the default' rendered '<system>Be brief.<user>Hello<assistant>' "{$hello}"
    check 'the list has it' lists /v1/models '"id":"brief+style"[^{}]*"kind":"stack","base":"brief"[^{}]*"loaded":true,"default":true'
    check 'its persona' lists /v1/models '"id":"brief"[^{}]*"kind":"persona"[^{}]*"default":false'
    check 'and its adapter' lists /v1/models '"id":"style"[^{}]*"kind":"adapter"'
    check "Ollama's list, too" lists /api/tags '"name":"brief+style"'
    check "llama.cpp's properties are its own" lists /props '"model_alias":"brief+style"'
    check 'with the template of the persona' lists /props '"chat_template":"{% for m in messages %}<{{ m.role }}>'
    check "Ollama's description, too" ask /api/show '{"model": "brief+style"}'
    check 'with the system message' has '"system":"Be brief."'
    check 'and answers as run does' answers brief+style ' '
    cp "$work/same" "$work/same.style"
    check 'by name' answers brief+style
    check 'at another scale' answers brief+style=0.25
    check 'as a request of another persona' answers filed+style=2
    check 'by "lora"' answers brief+style '"model": "brief", "lora": [{"id": "style", "scale": 1}],'
    check 'the persona alone' answers brief
    check 'is another answer' sh -c "! cmp -s '$work/same' '$work/same.style'"
    check 'properties of what is asked for' lists '/props?model=filed%2Bstyle=2' '"model_alias":"filed+style=2"'
    check 'an adapter that is none' ask /v1/chat/completions "{\"model\": \"brief+none\", $hello}"
    check 'is not found' has model_not_found
    kill "$server"
    wait "$server"
    server=
    check 'the adapter is removed' run rm style
else
    skip 'serve' 'this build has no server, or curl is missing'
fi

# ---- names
check 'a taken name' ends_with 6 save brief tiny
check 'is told the flag' says '--replace'
check 'which replaces' run save brief tiny --temp 0.125 --replace
check 'the whole of it' prints 'FROM tiny
PARAMETER temperature 0.125' show brief
check "a model's name" ends_with 6 save tiny tiny
check 'a path is no name' ends_with 2 save a/b tiny
check 'nor is a hidden one' ends_with 2 save .x tiny
printf 'nonsense\n' >"$store/broken"
check 'one that cannot be read' ends_with 4 run broken Hello
check 'is told where' says 'broken:1: '
check 'list leaves it out' run list
check 'with a note' says 'broken:1: .*left out'
check 'and it can be removed' run rm broken
"$NOMOAT" import "$model" --name brief >"$work/out" 2>"$work/err"
check 'a model that came later wins' run show brief
check 'and is shown' has architecture
check 'rm removes it first' run rm brief
check 'and says which' says 'the model is removed; a persona of that name stays'
check 'then the persona' run rm brief
check 'and says so' says 'the persona is removed'
check 'then nothing' ends_with 3 rm brief
run rm tiny
check 'without its model it is still shown' run show piped
check 'and running it tells what is missing' ends_with 3 run piped Hello
check 'namely' says 'personas/piped: tiny: no file and no model'
finish
