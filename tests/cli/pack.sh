#!/bin/sh
# Packed weights in the cache folder: the same answers cold, warm and off; doctor shows, verifies and clears them; a killed run, a full disk.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
model=${NOMOAT_TEST_DATA:-}/tiny/llama.gguf
if [ ! -f "$model" ]; then
    skip 'kept packs' NOMOAT_TEST_DATA
    finish
fi
packs=$HOME/.cache/nomoat/packs
answer() {      # answer FILE MODEL [OPTION...]
    to=$1
    shift
    "$NOMOAT" run "$@" --raw --temp 0 -n 16 'Once upon a time' >"$work/$to" 2>"$work/err" </dev/null
}
as_plain() { answer got "$@" && cmp -s "$work/got" "$work/plain"; }
kept() { find "$packs" -name "*$1" 2>/dev/null | wc -l; }
out() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }

plain() { answer plain "$model" --no-pack && [ -s "$work/plain" ] && [ ! -e "$packs" ]; }
check 'without packing nothing is kept' plain
off() { NOMOAT_PACK_LIMIT=0 as_plain "$model" && [ "$(kept '')" -le 1 ] && [ "$(kept .pack)" -eq 0 ]; }
check 'a limit of 0 keeps none' off
cold() { as_plain "$model" && [ "$(kept .pack)" -eq 1 ]; }
check 'cold: the same answer, and it is kept' cold
check 'warm: the same answer' as_plain "$model"
check 'nothing is said of it' test ! -s "$work/err"
limit_of() { NOMOAT_PACK_LIMIT=$1 as_plain "$model"; }
check 'a limit of 0 reads what is there' limit_of 0
shows() { out doctor && has '^packs .*packed weights of 1 models'; }
check 'doctor shows it' shows
verifies() { out doctor --verify && has 'llama.gguf: pack is good'; }
check 'doctor --verify reads it' verifies
as_json() { out doctor --verify --json && has '"kept_packs": 1' && has '"result": "pack is good"'; }
check 'as JSON' as_json
damage() {
    pack=$(find "$packs" -name '*.pack')
    printf '\377\377' | dd of="$pack" bs=1 seek=$(($(wc -c <"$pack") - 40)) conv=notrunc 2>/dev/null
    out doctor --verify
    [ $? -eq 4 ] && has 'is damaged: it is removed' && [ "$(kept .pack)" -eq 0 ]
}
check 'finds damage, and removes it' damage
check 'and all is well again' cold
clears() { out doctor --clear-packs && says 'packed weights of 1 models removed' && [ "$(kept .pack)" -eq 0 ] && has 'packed weights of 0 models'; }
check 'doctor --clear-packs' clears
check 'a limit that cannot be read keeps none' limit_of x
unread() { NOMOAT_PACK_LIMIT=x ends_with 2 doctor; }
check 'doctor says so' unread
nowhere() { XDG_CACHE_HOME=/proc as_plain "$model" && [ ! -s "$work/err" ]; }
check 'no folder can be made: the same answer' nowhere

larger=${NOMOAT_TEST_MODELS:-}/smollm2-135m-instruct-q4_1.gguf
if [ ! -f "$larger" ]; then
    skip 'killed, and a full disk' NOMOAT_TEST_MODELS
    finish
fi
answer plain "$larger" --no-pack
writing() { [ "$(kept .tmp)" -gt 0 ] || [ "$(kept .pack)" -gt 0 ]; }
killed() {
    "$NOMOAT" run "$larger" --raw --temp 0 -n 16 x >/dev/null 2>&1 </dev/null &
    wait_for writing
    kill -9 $!
    wait $! 2>/dev/null
    as_plain "$larger" && [ "$(kept .tmp)" -eq 0 ] && as_plain "$larger" && [ "$(kept .pack)" -eq 1 ]
}
check 'killed while writing: the next run is well' killed
interrupted() {
    out doctor --clear-packs
    "$NOMOAT" run "$larger" --raw --ignore-eos -n 100000 x >/dev/null 2>&1 </dev/null &
    wait_for writing
    kill -INT $!
    wait $!
    [ $? -eq 130 ] && [ "$(kept .tmp)" -eq 0 ]
}
check 'interrupted while writing: nothing is left' interrupted
if unshare -rm true 2>/dev/null; then
    full() {
        mkdir "$work/full"
        # shellcheck disable=SC2016  # for the inner shell
        unshare -rm sh -c 'mount -t tmpfs -o size=20m none "$1" && XDG_CACHE_HOME=$1 NOMOAT_PACK_LIMIT=1G "$2" run "$3" --raw --temp 0 -n 16 "Once upon a time" && ! ls "$1"/nomoat/packs/*' \
            - "$work/full" "$NOMOAT" "$larger" >"$work/got" 2>"$work/err" </dev/null && cmp -s "$work/got" "$work/plain"
    }
    check 'a full disk: the same answer, and nothing is left' full
else
    skip 'a full disk' 'no name spaces'
fi
finish
