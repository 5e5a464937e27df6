#!/bin/sh
# examples/hello.c and complete.c, whose paths are in HELLO and COMPLETE: what they say greedily is what `nomoat run` says.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
model=${NOMOAT_TEST_MODELS:-}/smollm2-135m-instruct-q4_1.gguf

usage() { "$HELLO" >"$work/out" 2>"$work/err"; [ $? -eq 2 ] && [ ! -s "$work/out" ]; }
check 'without arguments it tells them' usage
missing() { "$HELLO" "$work/none.gguf" hi >"$work/out" 2>"$work/err"; [ $? -eq 3 ] && [ "$(wc -l <"$work/err")" -eq 1 ]; }
check 'a missing file is said in one line' missing
bare() { "$COMPLETE" >"$work/out" 2>"$work/err"; [ $? -eq 2 ] && [ ! -s "$work/out" ]; }
check 'so does the shorter one' bare
short() { [ "$(grep -cv '^ *$\|^/\*\|^ \*' "$(dirname "$0")/../../examples/complete.c")" -le 40 ]; }
check 'which has 40 lines at most' short
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
continued() {   # continued TEXT TOKENS
    "$COMPLETE" "$model" "$1" "$2" >"$work/here" 2>"$work/err" && "$NOMOAT" run "$model" --raw "$1" --temperature 0 -n "$2" >"$work/there" 2>"$work/err" </dev/null &&
        [ -s "$work/there" ] && [ "$(cat "$work/here")" = "$(cat "$work/there")" ]
}
check 'a text goes on' continued 'The capital of France is' 24
finish
