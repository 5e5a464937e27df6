#!/bin/sh
# What teaching takes of memory with nothing chosen by hand, resident in all: SmolLM2 at 4 x 512 tokens within 600 MB, Qwen2.5-Coder-1.5B at 1 x 512 within
# 2.4 GB, their packs kept before. Steps with the anchor of both kinds, validation, the meter and the files. NOMOAT is the program.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
small=${NOMOAT_TEST_MODELS:-}/smollm2-135m-instruct-q4_1.gguf large=${NOMOAT_TEST_MODELS:-}/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf

# Rows much longer than 512 tokens, so that every sequence is cut to just that.
awk 'BEGIN { for (i = 0; i < 8; i++) { printf "{\"prompt\": \"Count from %d.\", \"completion\": \"", i; for (k = 0; k < 400; k++) printf "%d, ", i + k; print "end\"}" } }' >"$work/data.jsonl"

within() {      # within MODEL BATCH BYTES
    "$NOMOAT" run "$1" --raw hello -n 1 >"$work/text" 2>"$work/err" </dev/null || return 1
    "$NOMOAT" tune "$1" "$work/data.jsonl" --batch "$2" --max-length 512 --max-steps 2 --val 0.2 --meter 64 -o "$work/out" --json >"$work/json" 2>"$work/err" </dev/null || return 1
    peak=$(sed -n 's/.*"peak_bytes": \([0-9]*\).*/\1/p' "$work/json")
    echo "# $peak bytes resident at most"
    [ "$peak" -gt 10000000 ] && [ "$peak" -le "$3" ]
}
if [ -f "$small" ]; then
    check 'SmolLM2, 4 x 512: 600 MB' within "$small" 4 600000000
else
    skip 'SmolLM2, 4 x 512: 600 MB' NOMOAT_TEST_MODELS
fi
if [ -n "${NOMOAT_TEST_LONG:-}" ] && [ -f "$large" ]; then
    check 'Qwen2.5-Coder-1.5B, 1 x 512: 2.4 GB' within "$large" 1 2400000000
else
    skip 'Qwen2.5-Coder-1.5B, 1 x 512: 2.4 GB' 'NOMOAT_TEST_LONG, NOMOAT_TEST_MODELS'
fi
finish
