#!/bin/sh
# examples/hello.c, whose path is in HELLO: its greedy answer is what `nomoat run` says.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
model=${NOMOAT_TEST_MODELS:-}/smollm2-135m-instruct-q4_1.gguf

usage() { "$HELLO" >"$work/out" 2>"$work/err"; [ $? -eq 2 ] && [ ! -s "$work/out" ]; }
check 'without arguments it tells them' usage
missing() { "$HELLO" "$work/none.gguf" hi >"$work/out" 2>"$work/err"; [ $? -eq 3 ] && [ "$(wc -l <"$work/err")" -eq 1 ]; }
check 'a missing file is said in one line' missing
if [ ! -f "$model" ]; then
    skip 'its answers' 'NOMOAT_TEST_MODELS'
    finish
fi
same() {        # same QUESTION TOKENS
    "$HELLO" "$model" "$1" "$2" >"$work/here" 2>"$work/err" && "$NOMOAT" run "$model" "$1" --temperature 0 -n "$2" >"$work/there" 2>"$work/err" </dev/null &&
        [ -s "$work/there" ] && [ "$(cat "$work/here")" = "$(cat "$work/there")" ]
}
check 'an answer that ends' same 'What is the capital of France?' 40
check 'one that is cut' same 'Tell me a story.' 12
check 'quotes, a backslash, a line break, other letters' same 'Say "é\n" and
then \ twice.' 8
finish
