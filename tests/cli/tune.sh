#!/bin/sh
# tune with a tiny model of random weights: what it makes runs, a run that is killed ends in the same bits, and faults are said.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
model=${NOMOAT_TEST_DATA:-}/tiny/llama.gguf
if [ ! -f "$model" ]; then
    skip 'tune' NOMOAT_TEST_DATA
    finish
fi
run() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }
value() { sed -n "s/.*\"$1\": \\([^,}]*\\).*/\\1/p" "$work/out"; }
awk 'BEGIN { for (i = 0; i < 24; i++) printf "{\"prompt\": \"What is %d?\", \"completion\": \"It is the number %d.\"}\n", i, i }' >"$work/data.jsonl"
tune() { "$NOMOAT" tune "$model" "$work/data.jsonl" --format alpaca --epochs 2 --batch 4 --max-length 128 -r 4 -s 7 --meter 64 "$@" >"$work/out" 2>"$work/err" </dev/null; }

check 'a run' tune -o "$work/a" --log "$work/log.jsonl" --val 0.1
check 'names what it made' has "^$work/a\$"
check 'makes a PEFT folder' test -s "$work/a/adapter_model.safetensors" -a -s "$work/a/adapter_config.json"
check 'leaves no checkpoint behind' test ! -e "$work/a/checkpoint.safetensors"
logged() { grep -q '^{"step": 1, "loss": [0-9.]*, "grad_norm": [0-9.]*, "lr": [0-9.e-]*, "supervised_tokens": [0-9]*, "tokens": [0-9]*, "seconds": [0-9.]*, "arithmetic": "b*f[0-9]*", "anchor": [0-9.e-]*}$' "$work/log.jsonl" && grep -q '"val_loss": [0-9.]*, "forgetting": [0-9.e-]*}$' "$work/log.jsonl"; }
check 'logs every step' logged
less() { awk '{ match($0, /"loss": [0-9.]*/); l = substr($0, RSTART + 8, RLENGTH - 8) + 0; if (NR == 1) first = l } END { exit !(l < first) }' "$work/log.jsonl"; }
check 'and learns' less
check 'run uses it' run run "$model+$work/a" --raw hello -n 4 --temp 0
check 'a name goes to the store' tune -o mine --max-steps 2 --val 0
check 'and is used by it' run run "$model+mine" --raw hello -n 4
check 'DoRA' tune -o "$work/dora" --max-steps 3 --val 0 --dora
check 'says so' says 'DoRA of rank 4'
run adapter show "$work/dora"
check 'adapter show says so' has '^format *peft, DoRA$'
check 'PEFT is told' grep -q '"use_dora": true' "$work/dora/adapter_config.json"
check 'run uses it' run run "$model+$work/dora" --raw hello -n 4 --temp 0
check 'DoRA goes on from LoRA' tune -o "$work/dora2" --max-steps 2 --val 0 --dora --init "$work/a"
check 'on top of DoRA' run tune "$model+$work/dora=0.5" "$work/data.jsonl" --format alpaca --max-steps 2 -o "$work/dora3" --val 0 --meter 64 --dora
resumed() {
    "$NOMOAT" tune "$model" "$work/data.jsonl" --format alpaca --epochs 2000 --batch 4 -r 4 -o "$work/dora4" --val 0 --dora --save-every 1 >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    wait_for test -s "$work/dora4/checkpoint.safetensors" || return 1
    kill -INT "$pid"
    wait "$pid"
    ends_with 6 tune "$model" "$work/data.jsonl" --format alpaca --epochs 2000 --batch 4 -r 4 -o "$work/dora4" --val 0 --resume -q
}
check 'a run of DoRA does not go on as one of LoRA' resumed
check 'on top of a stack' run tune "$model+mine=0.5" "$work/data.jsonl" --format alpaca --max-steps 2 -o "$work/top" --val 0 --meter 64
check 'as JSON' tune -o "$work/b" --max-steps 2 --json --val 0
check 'has its keys' has '^{"adapter": ".*/b", "steps": 2, "loss": [0-9.]*, "val_loss": null, "forgetting": [0-9.e-]*, "seconds": [0-9.]*, "peak_bytes": [1-9][0-9]*}$'

# ---- the same bits
same() { cmp -s "$work/a/adapter_model.safetensors" "$1/adapter_model.safetensors"; }
again() { tune -o "$work/c" --val 0.1 -t 1 && same "$work/c"; }
check 'one thread, the same adapter' again
little() { tune -o "$work/d" --val 0.1 --memory 30M && same "$work/d"; }
check 'less memory, the same adapter' little
killed() {
    for pause in 0.05 0.1 0.15 0.2 0.25 0.3 0.4 0.5; do
        flag=''
        [ ! -e "$work/e/checkpoint.safetensors" ] || flag=--resume
        "$NOMOAT" tune "$model" "$work/data.jsonl" --format alpaca --epochs 2 --batch 4 --max-length 128 -r 4 -s 7 --meter 64 -o "$work/e" --val 0.1 --save-every 2 $flag \
            >/dev/null 2>"$work/err" </dev/null &
        pid=$!
        sleep "$pause"
        kill -KILL "$pid" 2>/dev/null
        wait "$pid"
    done 2>/dev/null
    flag=''
    [ ! -e "$work/e/checkpoint.safetensors" ] || flag=--resume
    # shellcheck disable=SC2086
    tune -o "$work/e" --val 0.1 --save-every 2 $flag && tune -o "$work/f" --val 0.1 --save-every 2 && cmp -s "$work/e/adapter_model.safetensors" "$work/f/adapter_model.safetensors"
}
check 'killed and resumed, the same adapter' killed

# A short template leaves room for three questions a step in the anchor: their answers, made eight at a time, come in other groups after a kill.
printf '%s' '{% for m in messages %}{{ m.content }}{% if m.role == "assistant" %}{{ eos_token }}{% else %} {% endif %}{% endfor %}' >"$work/short.jinja"
awk 'BEGIN { for (i = 0; i < 24; i++) printf "{\"messages\": [{\"role\": \"user\", \"content\": \"What is %d?\"}, {\"role\": \"assistant\", \"content\": \"Number %d.\"}]}\n", i, i }' >"$work/chat.jsonl"
asks='--epochs 20 --batch 4 --max-length 32 -r 4 -s 7 --meter 0 --val 0 --save-every 1'
# shellcheck disable=SC2086
asks() { "$NOMOAT" tune "$model" "$work/chat.jsonl" --template "$work/short.jinja" $asks "$@" >"$work/out" 2>"$work/err" </dev/null; }
# shellcheck disable=SC2086
asks_again() {
    rm -rf "$work/q2"
    exec "$NOMOAT" tune "$model" "$work/chat.jsonl" --template "$work/short.jinja" $asks -o "$work/q2" >/dev/null 2>&1 </dev/null
}
saved() { [ -e "$work/q2/checkpoint.safetensors" ]; }
asks_killed() {
    asks -o "$work/q1" || return
    catch saved asks_again
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    test -e "$work/q2/checkpoint.safetensors" && asks -o "$work/q2" --resume && cmp -s "$work/q1/adapter_model.safetensors" "$work/q2/adapter_model.safetensors"
}
check 'three questions a step: killed and resumed, the same adapter' asks_killed
asks_apart() { asks -o "$work/q3" --no-packing && cmp -s "$work/q1/adapter_model.safetensors" "$work/q3/adapter_model.safetensors"; }
check 'three questions a step: each in a pass of its own, the same adapter' asks_apart
stopped() {
    "$NOMOAT" tune "$model" "$work/data.jsonl" --format alpaca --epochs 2000 --batch 4 -r 4 -o "$work/g" --val 0 >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    wait_for busy "$pid" || return 1
    kill -INT "$pid"
    wait "$pid"
    [ $? -eq 130 ] && says '--resume goes on' && [ -s "$work/g/checkpoint.safetensors" ]
}
check 'Ctrl-C saves and says how to go on' stopped
check 'other settings do not go on' ends_with 6 tune "$model" "$work/data.jsonl" --format alpaca --epochs 2000 --batch 4 -r 8 -o "$work/g" --val 0 --resume -q
check 'a run in the way is not overwritten' ends_with 6 tune "$model" "$work/data.jsonl" --format alpaca --epochs 2000 --batch 4 -r 4 -o "$work/g" --val 0 -q

# ---- options of training: each makes an adapter that runs
option() {
    rm -rf "$work/option"
    tune -o "$work/option" --max-steps 2 --val 0 --meter 0 "$@" && run run "$model+$work/option" --raw hello -n 2 --temp 0
}
for name in adamw8bit lion adafactor muon muon-rms; do check "optimiser $name" option --optimizer "$name"; done
check 'DoRA with 8-bit moments' option --dora --optimizer adamw8bit
check 'LoRA+' option --loraplus 16
check 'dropout' option --dropout 0.1
check 'a Gaussian start' option --init-lora gaussian
check 'a PiSSA start' option --init-lora pissa
double() { grep -q '"r": 8' "$work/option/adapter_config.json"; }
check 'is written with twice the rank' double
check 'PiSSA on top of a stack' run tune "$model+mine=0.5" "$work/data.jsonl" --format alpaca --max-steps 2 -r 4 -o "$work/top2" --val 0 --meter 64 --init-lora pissa --dropout 0.1

# ---- before work
check 'a plan' tune --plan --json
check 'has its keys' has '^{"steps": [0-9]*, "epochs": 2, "tokens": [0-9]*, "trained": [0-9]*, "cut": 0, "tokens_per_second": [0-9.]*, "seconds": [0-9.]*, "bytes": [0-9]*, "peak_bytes": [0-9]*, "pass_tokens": [0-9]*, "arithmetic": "b*f[0-9]*", "recomputed": "rows", "parts": {"opening": [0-9.]*, "steps": [0-9.]*, "anchor": [0-9.]*, "optimizer": [0-9.]*, "validation": [0-9.]*, "meter": [0-9.]*, "saving": [0-9.]*, "answers": [0-9.]*}, "instead": \[{"change": "--rank 2", "steps"'
check 'and other choices' has '"change": "--max-length 64".*"change": "--batch 8".*"change": "--epochs 1", "steps": [0-9]*, "epochs": 1,.*"change": "--no-anchor"'
check 'a plan for people' tune --plan
check 'has a table' has '^--rank 8 .* [0-9.]* [kMG]B'
ample() { tune -o "$work/a" --val 0.1 --fit '2 h' && says '--fit 2 h: all 12 steps fit' && same "$work/a"; }
check 'what fits stays as it is, to the bit' ample
check 'a time that is none' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --fit soon -q
check 'no time at all' ends_with 6 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --fit 0.01s -q
check 'says what the least would be' says 'even [0-9]* steps take'
check '--fit does not resume' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --fit 1h --resume -q
# Stopped by Ctrl-C, it says what chose the same, and goes on to the bits of a run that is told so from the start.
in_time() { tune -o "$work/t" --val 0 --epochs 3000 "$@"; }
stops() {
    "$NOMOAT" tune "$model" "$work/data.jsonl" --format alpaca --batch 4 --max-length 128 -r 4 -s 7 --meter 64 --val 0 -o "$work/t" --epochs 3000 --fit 10s >"$work/out" 2>"$work/err" </dev/null &
    running=$!
    wait_for test -e "$work/t/checkpoint.safetensors" && kill -INT "$running"
    wait "$running"
    chosen=$(sed -n 's/.* the same command with \(--max-steps [0-9]* --save-every [0-9]*\) --resume in place of --fit goes on.*/\1/p' "$work/err")
    [ -n "$chosen" ]
}
check 'a time, and Ctrl-C' stops
# shellcheck disable=SC2086  # options
goes_on() { in_time $chosen --resume && mv "$work/t" "$work/t.parts" && in_time $chosen && cmp "$work/t/adapter_model.safetensors" "$work/t.parts/adapter_model.safetensors"; }
check 'goes on with what was chosen' goes_on
thrice() { "$@" || "$@" || "$@"; }      # what is measured: the machine may become busy, or idle, in the middle
fitted() {
    rm -rf "$work/h"
    tune -o "$work/h" --val 0 --epochs 1000 --meter 64 --fit 15s --json && says ' epochs in place of 1000 ' && awk -v s="$(value seconds)" 'BEGIN { exit !(s > 4 && s < 30) }'
}
check 'fewer epochs for less time' thrice fitted
awk 'BEGIN { for (i = 0; i < 2700; i++) printf "{\"prompt\": \"What is %d?\", \"completion\": \"It is the number %d.\"}\n", i, i }' >"$work/many.jsonl"
check 'many rows' run tune "$model" "$work/many.jsonl" --format alpaca --show-mask 1
check 'keep no more than tells enough' says '2700 sequences,.*; 128 sequences for validation'
looks() { run tune "$model" "$work/data.jsonl" --format alpaca -r 4 --epochs 4000 --meter 64 --val "$work/many.jsonl" --plan "$@"; }
# The time of ten validations and of none of the steps: far from what two validations take and from what the steps do, as a busy machine measures the
# same thing four times as long.
seldom() { looks --json && looks --fit "$(value validation)s" && says ': [2-9] looks .* in place of 10'; }
check 'fewer validations for less time' thrice seldom
said() { tune -o "$work/i" --val 0 --max-steps 1 --memory 30M && says '^nomoat: --memory 30M: '; }
check 'what --memory chose is said' said
check 'masks' tune --show-mask 1
check 'show what is trained' has '\[\[It is the number'

# ---- faults
check 'no output' ends_with 2 tune "$model" "$work/data.jsonl"
check 'no data' ends_with 2 tune "$model" -o "$work/x"
check 'no such data' ends_with 3 tune "$model" "$work/missing.jsonl" -o "$work/x"
printf '{"prompt": "a"}\n' >"$work/bad.jsonl"
check 'a bad row' ends_with 4 tune "$model" "$work/bad.jsonl" --format alpaca -o "$work/x"
check 'is named' says 'bad.jsonl:1'
check 'no such map' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --targets nothing -q
check 'no such optimiser' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --optimizer none -q
check 'no such start' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --init-lora none -q
check 'a start and an adapter to start from' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --init-lora pissa --init "$work/a" -q
diverges() { ! run tune "$model" "$work/data.jsonl" --format alpaca --batch 4 -r 4 --lr 1000 --warmup 0 --clip 0 --epochs 40 --save-every 1 --val 0 --meter 0 --no-anchor -o "$work/wild" && [ -s "$work/wild/adapter_model.safetensors" ]; }
check 'a run that comes to nothing leaves what it had learned' diverges
check 'DoRA with Muon' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --dora --optimizer muon -q
check 'an adapter of other weights to start from' ends_with 6 tune "${model%/*}/stablelm.gguf" "$work/data.jsonl" --format alpaca -o "$work/x" --init "$work/a" -q
check 'which --force allows' run tune "${model%/*}/stablelm.gguf" "$work/data.jsonl" --format alpaca -o "$work/forced" --init "$work/a" --force --max-steps 1 --val 0 --meter 64
check 'DoRA with dropout' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --dora --dropout 0.1 -q
check 'DoRA with PiSSA' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --dora --init-lora pissa -q
check 'all dropped' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --dropout 1 -q
check 'a ratio of nothing' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --loraplus 0 -q
check 'too little memory' ends_with 5 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" --memory 1k -q
check 'a rank beyond the maps' ends_with 2 tune "$model" "$work/data.jsonl" --format alpaca -o "$work/x" -r 4096 -q
finish
