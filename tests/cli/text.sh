#!/bin/sh
# tokenize, detokenize and show on a file without weights; what reaches a terminal.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
vocabulary=${NOMOAT_TEST_DATA:-}/tokenizers/ggml-vocab-qwen2.gguf
if [ ! -f "$vocabulary" ]; then
    skip 'texts' NOMOAT_TEST_DATA
    finish
fi
run() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }

check 'show needs no weights' run show "$vocabulary"
check 'and says so' has '^weights *none'
check 'run needs them' ends_with 4 run "$vocabulary" hi
run show "$vocabulary" --metadata
check 'metadata' has '^general.architecture (string) = "qwen2"'
check 'which are cut with a mark' grep -q '^tokenizer\.chat_template (string) = ".*"\.\.\. ([0-9]* bytes)$' "$work/out"
run show "$vocabulary" --json --metadata --tensors
check 'as JSON' has '"metadata": {.*"tokenizer.ggml.pre": "qwen2".*"tensors": \[\]}$'

round() {       # round: standard input there and back again
    cat >"$work/text"
    "$NOMOAT" tokenize "$vocabulary" --json <"$work/text" >"$work/ids" && "$NOMOAT" detokenize "$vocabulary" <"$work/ids" >"$work/back" && cmp -s "$work/text" "$work/back"
}
bytes() { awk 'BEGIN { for (i = 0; i < 256; i++) printf "\\%03o", i }' | xargs -0 printf | round; }
check 'every byte goes there and back' bytes
empty() { : | round; }
check 'nothing, too' empty
newlines() { printf '\n\nHello  world\r\n\n' | round; }
check 'no newline is stripped' newlines
plain() { printf 'Hello world' | "$NOMOAT" tokenize "$vocabulary" >"$work/out" && "$NOMOAT" detokenize "$vocabulary" <"$work/out" >"$work/back" && [ "$(cat "$work/back")" = 'Hello world' ]; }
check 'plain numbers' plain
special() { printf '<|im_end|>' | prints 151645 tokenize "$vocabulary" --special; }
check 'special tokens where asked' special
text() { [ "$(printf '<|im_end|>' | "$NOMOAT" tokenize "$vocabulary" | wc -w)" -gt 1 ]; }
check 'and as text where not' text
json() { printf '{"ids": [9707, 1879]}' | prints '{"text": "Hello world"}' detokenize "$vocabulary" --json; }
check 'detokenize --json' json
refused() {     # refused INPUT: detokenize ends with 2
    printf '%s' "$1" | "$NOMOAT" detokenize "$vocabulary" >"$work/out" 2>"$work/err"
    [ $? -eq 2 ] && [ "$(wc -l <"$work/err")" -eq 1 ]
}
for input in 1+2 1-2 0x1 +1 '[1,2' '1,2]' '[1][2]' '1,,2' '1,' ',1' '[,]' 1.5; do
    check "plain ids '$input' are refused" refused "$input"
done
listed() { printf ' [9707,\n 1879 ] ' | prints 'Hello world' detokenize "$vocabulary"; }
check 'a list' listed
for input in x 1,x -1 99999999 99999999999999999999 '{"ids": 1}' '{"ids": [1.5]}' '{"ids": ["a"]}' '{"id": []}' '{' '[1' '{"ids": [1], "text": "a"}'; do
    check "ids '$input' are refused" refused "$input"
done

printf '\033]0;title\007\302\233red\r' | "$NOMOAT" tokenize "$vocabulary" >"$work/ids"
# shellcheck disable=SC2016  # the inner shell's
on_terminal -- sh -c '"$0" detokenize "$1" <"$2"' "$NOMOAT" "$vocabulary" "$work/ids"
safe() { grep -qF '\x1b]0;title\x07\x9bred\x0d' "$work/screen" && ! grep -q "$(printf '\033')" "$work/screen"; }
check 'control characters do not reach a terminal' safe
"$NOMOAT" detokenize "$vocabulary" <"$work/ids" >"$work/back"
exact() { printf '\033]0;title\007\302\233red\r' | cmp -s - "$work/back"; }
check 'but a file' exact
finish
