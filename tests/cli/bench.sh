#!/bin/sh
# nomoat bench: refusals and their codes; on a tiny model the keys of --json and sane figures. NOMOAT is the program.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"

check 'a missing model is exit 3' ends_with 3 bench "$work/none.gguf"
check '--tune has one batch' ends_with 2 bench "$work/none.gguf" --tune --batch 1,2
check 'no model is a fault of use' ends_with 2 bench
for list in '' ',' '1,' ',1' '1,,2' x 1x -1 99999999999999999999 1:2; do
    check "--depth '$list' is a fault of use" ends_with 2 bench "$work/none.gguf" "--depth=$list"
done
check '--batch 0 is a fault of use' ends_with 2 bench "$work/none.gguf" --batch 0
for list in 0 17 1,x ''; do check "--adapters '$list' is a fault of use" ends_with 2 bench "$work/none.gguf" "--adapters=$list"; done
check '--adapters makes its own' ends_with 2 bench "$work/none.gguf" --adapters 1 --lora x
check '--tune trains one' ends_with 2 bench "$work/none.gguf" --adapters 1 --tune
check 'nothing to measure is a fault of use' ends_with 2 bench "$work/none.gguf" -p 0 -n 0

check 'fp32 has a cache of f32, as elsewhere' ends_with 2 bench "$work/none.gguf" --compute f32 --kv q8_0

model=${NOMOAT_TEST_DATA:-}/tiny/llama.gguf
if [ -f "$model" ]; then
    "$NOMOAT" bench "$model" -p 32 -n 8 -r 2 --depth 0,16 --batch 1,3 --json >"$work/json" 2>"$work/err"
    check 'a tiny model can be measured' test $? -eq 0
    check 'one line of JSON' test "$(wc -l <"$work/json")" -eq 1
    has() { grep -q "$1" "$work/json"; }
    for key in '"tier": "' '"threads": [1-9]' '"limits": {"read_gb_per_s": [0-9]' '"fp32_gflops": [0-9]' '"bf16_gflops": [0-9n]' '"int8_gops": [0-9]' \
        '"tests": \[{"name": "pp32", "depth": 0, "tokens_per_second": {"median": [0-9.e+]*, "min": [0-9.e+]*, "max": [0-9.e+]*}, "limit": "[a-z0-9_]*", "share": [0-9.]*, "share_min": [0-9.]*, "share_max": [0-9.]*, "int8_share": [0-9.]*, "resident_mb": [0-9.]*, "kv_mb": [0-9.]*, "rest_mb": [0-9.-]*}' \
        '"packed_mb": [0-9.]*, "tests"' '"name": "tg8", "depth": 16, [^}]*}[^}]*"times_depth_0": {"median"' '"name": "pp32", "depth": 16, [^}]*}[^}]*"times_depth_0": {[^}]*}, "attention_share": {"median"'; do
        check "has $key" has "$key"
    done
    tests=$(grep -o '"name": "[a-z0-9@]*", "depth": [0-9]*' "$work/json" | sed 's/"name": "\(.*\)", "depth": /\1:/' | tr '\n' ' ')
    check 'tests by depth and batch' test "$tests" = 'pp32:0 tg8:0 tg8@3:0 pp32:16 tg8:16 tg8@3:16 '
    "$NOMOAT" bench "$model" -p 0 -n 4 -r 2 --batch 1,2 --adapters 1,3 --rank 2 --json >"$work/json" 2>"$work/err"
    check 'adapters of no meaning' test "$(grep -o '"name": "[a-z0-9@+]*"' "$work/json" | cut -d '"' -f 4 | tr '\n' ' ')" = 'tg4 tg4@2 tg4+1 tg4@2+1 tg4+3 tg4@2+3 '
    check 'their time beside their bytes' has '"name": "tg4@2+3", [^}]*}[^}]*"times_without_adapters": {"median": [0-9.e+-]*, "min": [0-9.e+-]*, "max": [0-9.e+-]*}, "adapters_of_bytes": 0[.][0-9]*'
    "$NOMOAT" bench "$model" -p 8 -n 0 -r 1 >"$work/out" 2>"$work/err"
    check 'a table for people' grep -q '^pp8 ' "$work/out"
    "$NOMOAT" bench "$model" --tune --rank 4 --batch 2 --max-length 32 -r 3 --json >"$work/json" 2>"$work/err"
    check 'a step of training can be measured' test $? -eq 0
    check 'one line of JSON for it' test "$(wc -l <"$work/json")" -eq 1
    for key in '"limits": {"fp32_gflops": [0-9]' '"tune": {"rank": 4, "maps": [1-9][0-9]*, "batch": 2, "length": 32, "tokens_per_second": {"median": [0-9.e+]*, "min": [0-9.e+]*, "max": [0-9.e+]*}' \
        '"gflop_per_token": [0-9]' '"share": [0-9.]*, "trainer_mb": [0-9.]*, "peak_mb": [1-9][0-9.]*, "recomputed": "rows"}}$'; do
        check "has $key" has "$key"
    done
    "$NOMOAT" bench "$model" --tune --max-length 64 -r 1 >"$work/out" 2>"$work/err"
    check 'and a table of it' grep -q '^speed  *[0-9.]* tokens/s' "$work/out"
    probing() { awk '/^VmRSS/ { most = $2 } END { exit most <= 60000 }' "/proc/$1/status" 2>/dev/null; }      # its buffer is being filled
    endless() { exec "$NOMOAT" bench "$model" -r 100 >"$work/out" 2>"$work/err" </dev/null; }
    interrupted() {
        catch probing endless || return 1
        kill -INT "$pid"
        wait "$pid"
        [ $? -eq 130 ] && [ ! -s "$work/out" ]
    }
    check 'Ctrl-C ends it while it probes the limits' interrupted
    # shellcheck disable=SC3045  # what sh is here has it
    if ! (ulimit -v 4000000; "$NOMOAT" --version >/dev/null 2>&1); then
        skip 'a depth beyond memory is told before anything runs' 'this build does not start in 4 GB of addresses'
        finish
    fi
    # shellcheck disable=SC3045
    (ulimit -v 4000000; ends_with 5 bench "$model" --depth 16777216 --kv f32 --batch 256)
    check 'a depth beyond memory is told before anything runs' test $? -eq 0
else
    skip 'bench on a tiny model' NOMOAT_TEST_DATA
fi
finish
