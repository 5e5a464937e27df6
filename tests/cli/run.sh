#!/bin/sh
# run, score and perplexity with a tiny model of random weights: prompts, streams, codes, the chat on a pseudo terminal.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
model=${NOMOAT_TEST_DATA:-}/tiny/llama.gguf
if [ ! -f "$model" ]; then
    skip 'run' NOMOAT_TEST_DATA
    finish
fi
run() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }
raw() { "$NOMOAT" run "$model" --raw --temp 0 "$@"; }
value() { sed -n "s/.*\"$1\": \\([^,}]*\\).*/\\1/p" "$work/out"; }

# ---- answers
check 'one answer as JSON' run run "$model" hello -n 6 --json -s 1
check 'has the contract'"'"'s keys' has '^{"text": ".*", "ids": \[.*\], "prompt_tokens": [0-9]*, "completion_tokens": 6, "finish_reason": "length", .*"timings": {"prompt_ms": [0-9.]*, "completion_ms": [0-9.]*, "prompt_per_second": [0-9.]*, "completion_per_second": [0-9.]*}}$'
cp "$work/out" "$work/first"
run run "$model" hello -n 6 --json -s 1 -t 1
same() { [ "$(grep -o '"ids": [^]]*' "$work/first")" = "$(grep -o '"ids": [^]]*' "$work/out")" ]; }
check 'the same seed, the same answer' same
run run "$model" hello -n 6 --json -s 2
differ() { ! same; }
check 'another seed, another' differ
check 'no tokens asked, none given' run run "$model" hello -n 0 --json
check 'and the reason is length' has '"completion_tokens": 0, "finish_reason": "length"'
run run "$model" hello -n 1 --json --ignore-eos
check 'one token, out of the prompt, has no rate' has '"completion_tokens": 1, .*"completion_per_second": null}}$'
raw -n 12 abc </dev/null >"$work/a"
raw -n 12 -p abc </dev/null >"$work/b"
printf abc | raw -n 12 >"$work/c"
printf abc >"$work/prompt"
raw -n 12 -f "$work/prompt" </dev/null >"$work/d"
same_text() { [ -s "$work/a" ] && cmp -s "$work/a" "$work/b" && cmp -s "$work/a" "$work/c" && cmp -s "$work/a" "$work/d"; }
check 'a word, --prompt, standard input and --file are one' same_text
"$NOMOAT" run "$model" --raw --temp 0 -n 12 --json abc </dev/null >"$work/out"
"$NOMOAT" run "$model" --raw --temp 0 -n 12 --json - <"$work/prompt" >"$work/first"
check '- reads standard input' same
part=$(head -c 5 "$work/a" | tail -c 2)
raw -n 12 --stop "$part" abc </dev/null >"$work/out"
stops() { [ "$(cat "$work/out")" = "$(awk -v text="$(cat "$work/a")" -v stop="$part" 'BEGIN { print substr(text, 1, index(text, stop) - 1) }')" ]; }
LC_ALL=C check '--stop ends the answer before it' stops
mkfifo "$work/pipe"
exec 3<>"$work/pipe"        # nobody writes, nobody closes
silent() { "$NOMOAT" run "$model" --raw -n 2 abc >"$work/out" 2>"$work/err" <&3 && says 'stays silent'; }
check 'a silent pipe is left' silent
quiet() { "$NOMOAT" run "$model" --raw -n 2 -q abc >"$work/out" 2>"$work/err" <&3 && [ ! -s "$work/err" ]; }
check 'and --quiet says nothing' quiet
written() { "$NOMOAT" run "$model" --raw -n 2 abc >"$work/out" 2>"$work/err" 0>/dev/null; }
check 'nor is a standard input that can only be written, as nohup makes it, in the way' written
written() { "$NOMOAT" run "$model" >"$work/out" 2>"$work/err" 0>/dev/null; [ $? -eq 2 ] && says 'no prompt'; }
check 'and alone it is no prompt' written

# ---- refusals
check 'no prompt' ends_with 2 run "$model"
check 'two prompts' ends_with 2 run "$model" -p a b
check 'no file' ends_with 3 run "$model" -f "$work/missing"
head -c 5000 /dev/zero | tr '\0' a >"$work/long"
check 'a prompt that does not fit' ends_with 2 run "$model" -c 16 -f "$work/long"
check 'is told the numbers' says 'tokens, and the context holds 16'
check 'kv types that differ' ends_with 6 run "$model" -ctk f16 -ctv q8_0 hi
check 'f32 arithmetic with another cache' ends_with 2 run "$model" --compute f32 --kv f16 hi
check 'a context beyond memory' ends_with 5 run "$model" -c 2000000000 hi
check 'a template that is none' ends_with 3 run "$model" --template "$work/missing.jinja" hi
check 'an unknown name of one' ends_with 3 run "$model" --chat-template chatlm hi
check 'is told the known ones' says 'alpaca, chatml, .*llama3, .*zephyr'
check 'arguments that are no object' ends_with 2 run "$model" --chat-template-kwargs '[1]' hi
check 'an empty stop string' ends_with 2 run "$model" --stop '' hi
check 'a template from the command line' run run "$model" --template '{{ messages[0].content }}' -n 2 hi
check 'a template by its name' run run "$model" --chat-template chatml -n 2 hi
printf '{{ messages[0].content }}' >"$work/chatml"
prompt_of() { value prompt_tokens; }
(cd "$work" && "$NOMOAT" run "$model" --chat-template chatml -n 1 --json hi >"$work/out" 2>"$work/err" </dev/null)
short=$(prompt_of)
run run "$model" --chat-template chatml -n 1 --json hi
check 'a file of that name wins' test "$short" -lt "$(prompt_of)"
for name in alpaca command-r deepseek deepseek2 deepseek3 falcon3 gemma granite llama2 llama2-sys llama3 llama4 mistral-v1 mistral-v3 mistral-v3-tekken \
    mistral-v7 mistral-v7-tekken openchat phi3 phi4 vicuna vicuna-orca zephyr; do
    check "the template $name" run run "$model" --chat-template "$name" -sys Brief -n 1 hi
done
check 'llama.cpp'"'"'s spellings of no limit' run run "$model" --top-k -1 -n -1 -c 0 -t -1 --seed -1 -n 2 --repeat-last-n -1 hi
check 'each type of cache' run run "$model" --kv q8_0 -n 2 hi
check 'each type of cache' run run "$model" --kv f32 -n 2 hi

# ---- streams and signals
full() { raw -n 4 abc >/dev/full 2>"$work/err" </dev/null; [ $? -eq 1 ] && says 'No space left'; }
if [ -c /dev/full ]; then check 'a full disk is exit 1' full; else skip 'a full disk' 'no /dev/full'; fi
closed() { { raw -n 200 abc 2>"$work/err" </dev/null; echo $? >"$work/code"; } | head -c 1 >/dev/null; [ ! -s "$work/err" ] && [ "$(cat "$work/code")" = 0 ]; }
check 'a closed pipe ends quietly' closed

interrupted() {
    "$NOMOAT" run "$model" --raw --ignore-eos -c 100000 --json -q abc >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    wait_for busy "$pid" || return 2
    kill -INT "$pid" 2>/dev/null || return 2
    wait "$pid"
    [ $? -eq 130 ] && has '"finish_reason": "interrupted"'
}
check 'Ctrl-C prints what was made and is exit 130' interrupted
cp "$model" "$work/cut.gguf"
cut_in_use() {
    "$NOMOAT" run "$work/cut.gguf" --no-pack --raw --ignore-eos -c 100000 -q abc >/dev/null 2>"$work/err" </dev/null &
    pid=$!
    wait_for busy "$pid" || return 2
    truncate -s 10000 "$work/cut.gguf"
    wait "$pid"
    [ $? -eq 4 ] && says "nomoat: $work/cut.gguf: the file was cut" && [ "$(wc -l <"$work/err")" -eq 1 ]
}
check 'a file cut while in use is exit 4 with its name' cut_in_use

# ---- score and perplexity
score() { printf '{"ids": [1, 2, 3, 4]}' | "$NOMOAT" score "$model" --json >"$work/out" 2>"$work/err"; }
check 'score' score
check 'has the contract'"'"'s keys' has '^{"ids": \[1, 2, 3, 4\], "nll": \[[0-9.]*, [0-9.]*, [0-9.]*\], "perplexity": [0-9.]*, "last_top": {"ids": \[.*\], "logits": \[.*\]}}$'
bad_ids() { printf '{"ids": [%s]}' "$1" | "$NOMOAT" score "$model" --json >"$work/out" 2>"$work/err"; [ $? -eq 2 ]; }
check 'no ids' bad_ids ''
check 'an id outside the vocabulary' bad_ids '1, 99999'
head -c 3000 "$0" >"$work/text"
check 'perplexity' run perplexity "$model" "$work/text" --length 32 --windows 3 --json
check 'scores all but the first token of each window' test "$(value tokens)" = 93
run perplexity "$model" "$work/text" --length 32 --windows 3 --second-half --json
check 'or the second half' test "$(value tokens)" = 45
check 'with BOS' run perplexity "$model" "$work/text" --length 32 --windows 2 --bos
check 'windows longer than the trained length' run perplexity "$model" "$work/text" --length 300 --windows 1
check 'are told of' says 'more than the 256 tokens'
cp "$model" "$work/huge.gguf"       # weights of 3e38 are finite, what comes of them is not
run show "$model" --json --tensors
offset=$(sed 's/.*"name": "output_norm.weight"[^}]*"offset": \([0-9]*\).*/\1/' "$work/out")
# shellcheck disable=SC2046  # one word a number
printf '\346\261\141\177%.0s' $(seq 64) | dd of="$work/huge.gguf" bs=1 seek="$offset" conv=notrunc 2>/dev/null
check 'logits that are no numbers' ends_with 1 run "$work/huge.gguf" hi -n 4
check 'name the model' says "^nomoat: $work/huge.gguf: "
check 'a text that is too short' ends_with 2 perplexity "$model" "$work/prompt"

# ---- the chat
if "$NOMOAT" doctor | grep -q 'without line editing'; then
    skip 'the chat' 'no libedit'
    finish
fi
enter=$(printf '\r')
interrupt=$(printf '\003')
newline='
'
on_terminal '?>>> ' "=/help$enter" '?/again ' '?>>> ' "=/set temperature 0$enter" '?>>> ' "=/set max-tokens 4$enter" '?>>> ' "=Hello$enter" '?Hello' '?>>> ' \
    "=/save $work/talk.json$enter" '?saved to' '?>>> ' "=/nonsens$enter" '?no such command' '?>>> ' "=/bye$enter" -- "$NOMOAT" run "$model" -sys Brief
check 'the chat ends well' test $? -eq 0
check 'helps' shown '/again '
check 'refuses what it does not know' shown '/nonsens: no such command'
saved() { grep -q '^{"model": ".*", "messages": \[{"role": "system", "content": "Brief"}, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": ".*"}\]}$' "$work/talk.json"; }
check 'answers and saves the conversation' saved
check 'keeps its history to the user' test "$(stat -c %a "$HOME/.local/state/nomoat/history")" = 600
on_terminal '?>>> ' "=/load $work/talk.json$enter" '?loaded 3 messages' '?>>> ' "=/again$enter" '?/again' '?>>> ' "=$interrupt" '?once more' '?>>> ' "=$interrupt" \
    -- "$NOMOAT" run "$model" --temp 0 -n 4
check 'Ctrl-C twice leaves' test $? -eq 0
on_terminal '?>>> ' "=Hello$enter" '?Hello' "?$newline" '?' "=$interrupt" '?(stopped' '?>>> ' "=/bye$enter" -- "$NOMOAT" run "$model" --ignore-eos -c 100000
check 'Ctrl-C stops an answer, not the chat' test $? -eq 0
on_terminal '?>>> ' "=half a line$interrupt" '?once more' '?>>> ' "=$(printf '\004')" -- "$NOMOAT" run "$model"
check 'and a line' test $? -eq 0
on_terminal '?>>> ' =half '?half' '!TERM' -- "$NOMOAT" run "$model"
check 'SIGTERM ends it with the terminal as it was' test $? -eq 143
# shellcheck disable=SC3045  # what sh is here has it
ulimit -c 0
on_terminal '?>>> ' =half '?half' "=$(printf '\034')" -- "$NOMOAT" run "$model"
check 'Ctrl-\, too' test $? -eq 131
escape=$(printf '\033')
on_terminal "?${escape}[2m" '?' '!TERM' -- "$NOMOAT" run "$model" hi --template '{{ messages[0].content }}<think>' --ignore-eos -c 100000
check 'SIGTERM within thinking' test $? -eq 143
bright() { tail -c 6 "$work/screen" | grep -qF "${escape}[22m"; }
check 'leaves no dim terminal' bright

# ---- what is typed
history=$HOME/.local/state/nomoat/history
on_terminal '?>>> ' "=/set top-k 7$enter" '?>>> ' '=x' '?x' '!TERM' -- "$NOMOAT" run "$model"
check 'SIGTERM leaves the lines typed before in the history' grep -q '^/set top-k 7$' "$history"
on_terminal '?>>> ' "=$(printf '\020')" '?/set top-k 7' "=$interrupt" '?once more' '?>>> ' "=/stack$enter" '?>>> ' "=$(printf '\020')$(printf '\020')" '?et top-k 7' \
    "=$interrupt" '?>>> ' "=$interrupt" -- "$NOMOAT" run "$model"
check 'and the next chat has them' test $? -eq 0
awk 'BEGIN { print "_HiStOrY_V2_"; for (i = 0; i < 20000; i++) print "line", i, "of many" }' >"$history"
on_terminal '?>>> ' "=$(printf '\020')" '?line 19999 of many' "=$interrupt" '?>>> ' "=$interrupt" -- "$NOMOAT" run "$model"
short() { [ "$(wc -l <"$history")" -eq 1001 ] && tail -n 1 "$history" | grep -q '^line 19999 of many$'; }
check 'a history that has grown long is cut' short
on_terminal '?>>> ' "=/system $(printf 'a\351b')$enter" '?>>> ' "=/save $work/talk.json$enter" '?saved to' '?>>> ' "=/bye$enter" -- "$NOMOAT" run "$model"
replaced() { grep -q "\"a$(printf '\357\277\275')b\"" "$work/talk.json"; }
check 'a byte that is no UTF-8 takes no other with it' replaced

# ---- turns that come to nothing
alternating='{% for m in messages %}{% if (m.role == "user") != (loop.index0 % 2 == 0) %}{{ raise_exception("roles must alternate") }}{% endif %}{{ m.content }}{% endfor %}'
contents() { grep -o '"content": "[^"]*"' "$work/talk.json" | sed 's/"content": //' | tr '\n' ' '; }
on_terminal '?>>> ' "=/set max-tokens 0$enter" '?>>> ' "=Hello$enter" '?the answer is empty' '?>>> ' "=Again$enter" '?the answer is empty' \
    '?>>> ' "=/save $work/talk.json$enter" '?saved to' '?>>> ' "=/bye$enter" -- "$NOMOAT" run "$model" --template "$alternating"
check 'an empty answer is one, and the chat goes on' test "$(contents)" = '"Hello" "" "Again" "" '
refusing='{% for m in messages %}{% if "bad" in m.content %}{{ raise_exception("no bad words") }}{% endif %}{{ m.content }}{% endfor %}'
on_terminal '?>>> ' "=Hello$enter" '?Hello' '?>>> ' "=/edit bad$enter" '?stay' '?no bad words' '?>>> ' \
    "=/save $work/talk.json$enter" '?saved to' '?>>> ' "=/bye$enter" -- "$NOMOAT" run "$model" --template "$refusing" -n 3
check 'a refused question does not end the chat' test $? -eq 0
kept() { contents | grep -q '^"Hello" "..*" $'; }
check 'a question that is refused leaves the one it was to replace' kept
on_terminal '?>>> ' "=Hello$enter" '?Hello' '?context of 24 tokens is full' '?>>> ' "=Go on$enter" '?context holds 24' '?/clear' '?>>> ' \
    "=/clear$enter" '?is empty' '?>>> ' "=Hello$enter" '?Hello' '?context of 24 tokens is full' '?>>> ' "=/bye$enter" -- "$NOMOAT" run "$model" --ignore-eos -c 24
check 'a full context is told with what helps in a chat' test $? -eq 0

# ---- commands of the chat
mkfifo "$work/talk.fifo"
on_terminal '?>>> ' "=/set$enter" '?max-tokens 4' '?>>> ' "=/set stop abc$enter" '?(stop is now abc)' '?>>> ' "=/set stop xyz$enter" '?(stop is now xyz)' '?>>> ' \
    "=/set$enter" '?stop xyz' '?>>> ' "=/think hide$enter" '?thinking: auto, hidden' '?>>> ' "=/system Be brief$enter" '?system message is set' '?>>> ' \
    "=/load $work/talk.fifo$enter" '?no regular file' '?>>> ' "=//help me$enter" '?>>> ' "=/save $work/talk.json$enter" '?saved to' '?>>> ' "=/bye$enter" \
    -- "$NOMOAT" run "$model" -n 4
check 'commands say what they set, and /load waits for no pipe' test $? -eq 0
replaced() { ! shown 'stop abc$'; }
check '/set stop takes the place of the one before' replaced
slash() { contents | grep -q '^"Be brief" "/help me" '; }
check 'a message may begin with a slash' slash
no_system='{% if messages[0].role == "system" %}{{ raise_exception("System role not supported") }}{% endif %}{{ messages[0].content }}'
on_terminal '?>>> ' "=/system Be brief$enter" '?is set' '?>>> ' "=Hello$enter" '?not supported' '?/clear system' '?>>> ' "=/clear system$enter" '?no system message' \
    '?>>> ' "=/bye$enter" -- "$NOMOAT" run "$model" -n 4 --template "$no_system"
check 'a template that takes no system message' test $? -eq 0
finish
