#!/bin/sh
# tune beyond the plain run, with a tiny model of random weights: recipes and configuration files, replay, the limit to forgetting, formats that run obeys, the
# report, the progress on a terminal, and what kills and full disks leave behind.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
if [ -d /dev/shm ] && [ -w /dev/shm ]; then
    TMPDIR=/dev/shm         # where flushing a file to the disk costs nothing: some hundred adapters and checkpoints are written
    export TMPDIR
fi
. "$(dirname "$0")/common.sh"
model=${NOMOAT_TEST_DATA:-}/tiny/llama.gguf
if [ ! -f "$model" ]; then
    skip 'tune' NOMOAT_TEST_DATA
    finish
fi
data=$work/data.jsonl
awk 'BEGIN { for (i = 0; i < 24; i++) printf "{\"prompt\": \"What is %d?\", \"completion\": \"It is the number %d.\"}\n", i, i }' >"$data"
awk 'BEGIN { for (i = 0; i < 7; i++) printf "{\"text\": \"A text that is kept, %d.\"}\n", i }' >"$work/keep.jsonl"
# plain ARGUMENTS...: nothing but these; tune: small and quick. One thread: two would wait for each other where the machine is busy, and the bits are the same.
plain() { "$NOMOAT" tune "$model" "$data" -t 1 "$@" >"$work/out" 2>"$work/err" </dev/null; }
tune() { plain --format alpaca --epochs 2 --batch 4 --max-length 128 -r 4 -s 7 --meter 64 "$@"; }
run() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }
same() { cmp -s "$work/$1/adapter_model.safetensors" "$work/$2/adapter_model.safetensors"; }
ends() {        # ends CODE COMMAND...
    expected=$1
    shift
    "$@"
    [ $? -eq "$expected" ]
}
no_folder() { [ ! -e "$work/$1" ]; }
told() { grep -q -- "$2" "$work/$1/nomoat.json"; }

# ---- recipes
from_pipe() { "$NOMOAT" tune "$model" - -t 1 --format raw --max-steps 1 --meter 0 -o "$work/r" <"$data" >"$work/out" 2>"$work/err"; }
check 'few rows from a pipe' from_pipe
for recipe in alpaca-lora vicuna qlora; do
    check "the recipe $recipe" plain -o "$work/r" --recipe "$recipe" -r 4 --format raw --max-steps 1 --batch 4 --val 0 --meter 0
    check 'says what it sets' says "recipe $recipe: .*epochs 3"
    check 'and leaves what was given' told r '"format": "raw", .*"rank": 4'
done
check 'the recipe koala' plain -o "$work/r" --recipe koala --format raw --max-steps 1 --batch 4 --val 0 --meter 0
check 'says how it is carried over' says 'recipe koala: .*epochs 2. Koala trained all weights'
check 'no such recipe' ends_with 2 tune "$model" "$data" --recipe mine -o "$work/x"
settings_of() { told r '"targets": "all-linear", .*"lr": 0.0002, .*"schedule": "constant", "warmup": 0.03, .*"clip": 0.3'; }
run tune "$model" "$data" -o "$work/r" --recipe qlora -r 4 --format raw --max-steps 1 --batch 4 --val 0 --meter 0 --lora-alpha 8
check 'a recipe reaches the settings' settings_of

# ---- configuration files, and what an adapter tells
tune -o "$work/a" --val 0.1 --log "$work/a.jsonl" --gguf --save-every 2
check 'the end says how to use it' says "to use it: nomoat run $model+$work/a\$"
check 'and GGUF lies beside' run run "$model+$work/a/adapter.gguf" --raw hello -n 4 --temp 0
check 'but not for DoRA' ends_with 2 tune "$model" "$data" --format raw -o "$work/x" --gguf --dora
from_own() { plain -o "$work/b" --config "$work/a/nomoat.json" && same a b; }
check 'the settings of an adapter make it again' from_own
differs() { plain -o "$work/b" --config "$work/a/nomoat.json" --learning_rate 1e-5 && ! same a b && told b '"lr": 1e-05, '; }
check 'where the command line wins' differs
printf '{"num_train_epochs": 2, "per_step": 1}' >"$work/config.json"
check 'an unknown key' ends_with 2 tune "$model" "$data" -o "$work/x" --config "$work/config.json"
printf '{"learning_rat": 2}' >"$work/config.json"
ends_with 2 tune "$model" "$data" -o "$work/x" --config "$work/config.json"
check 'names the nearest' says 'did you mean "learning-rate"?'
printf '{"max_steps": 2, "target_modules": ["q_proj", "v_proj"], "lora_r": 2, "format": "raw", "no_anchor": true, "val": 0, "meter": 0, "learning_rate": 1e-3}' >"$work/config.json"
aliases() { plain -o "$work/b" --config "$work/config.json" && told b '"rank": 2, .*"targets": "q_proj,v_proj", .*"no-anchor": true'; }
check 'other spellings and arrays' aliases
opposite() { plain -o "$work/b" --config "$work/config.json" --anchor 0.5 && told b '"anchor": 0.5' && ! told b no-anchor; }
check 'an opposite on the line wins' opposite
printf '{"max_steps": 2,' >"$work/config.json"
check 'a broken file' ends_with 4 tune "$model" "$data" -o "$work/x" --config "$work/config.json"
printf '[1]' >"$work/config.json"
check 'no object' ends_with 2 tune "$model" "$data" -o "$work/x" --config "$work/config.json"
check 'a missing file' ends_with 3 tune "$model" "$data" -o "$work/x" --config "$work/missing.json"

# ---- the same bits, and what is kept in mind
alone() { tune -o "$work/b" --val 0.1 --save-every 2 --no-packing && same a b; }
check 'no packing, the same adapter' alone
replay() { tune -o "$work/k" --val 0.1 --save-every 2 --keep "$work/keep.jsonl" --log "$work/k.jsonl" && ! same a k && grep -q '"kept_tokens": [1-9]' "$work/k.jsonl"; }
check 'replay' replay
check 'is said' says '7 sequences of .*keep.jsonl are kept in mind: 1 of them in every step'

# ---- formats
template() { echo '{"messages": [{"role": "user", "content": "Hi"}]}' | "$NOMOAT" template "$1" >"$work/out" 2>"$work/err"; }
asked() { template "$model+$work/a" && has '^### Response:$' && has '^Below is an instruction'; }
check 'the format is part of the adapter' asked
check 'show tells it' run show "$model+$work/a"
check 'by name' has "^chat template the format 'alpaca'"
check 'adapter show, too' run adapter show "$work/a/adapter.gguf" --json
check 'by name' has '"prompt_format": "alpaca"'
tokens() { sed -n 's/.*"prompt_tokens": \([0-9]*\).*/\1/p' "$work/out"; }
obeyed() {
    run run "$model+$work/a" Hi -n 1 --json || return 1
    in_format=$(tokens)
    run run "$model+$work/a" Hi -n 1 --json --raw && [ "$in_format" -gt $((10 + $(tokens))) ]
}
check 'run obeys it' obeyed
off() { run run "$model" Hi -n 1 --json && own=$(tokens) && run run "$model+$work/a=0" Hi -n 1 --json && [ "$(tokens)" -eq "$own" ]; }
check 'but not at a scale of 0' off
tune -o "$work/v" --max-steps 1 --val 0 --format vicuna
last() { template "$model+$work/a+$work/v" && has 'USER: Hi ASSISTANT:' && says 'different formats, alpaca and vicuna: prompts are in that of the last'; }
check 'of two formats the last counts, and it is said' last
chat() { on_terminal '?>>> ' "=/stack $work/v
" '?>>> ' '=Hi
' '?>>> ' '=/bye
' -- "$NOMOAT" run "$model+$work/a" -n 4 --temp 0; }
check 'a chat changes from one to the other' chat
combined() { run adapter combine "$work/a" "$work/v=0.5" -o "$work/c/d" && run adapter show "$work/c/d" && has "in the format 'vicuna'"; }
check 'combine keeps it' combined
merged() { run merge "$model+$work/a" -o "$work/merged.gguf" && template "$work/merged.gguf" && has '### Instruction:'; }
check 'and merge makes it the template of the file' merged

# ---- the limit to forgetting
limited() { tune -o "$work/m" --val 0.1 --save-every 2 --lr 0.02 --no-anchor --max-forget 0.8; }
check 'a run that forgets too much stops' limited
check 'says so' says 'is above --max-forget 0.8: stopping'
below() { sed -n 's/.*"forgetting": \([0-9.]*\), "settings".*/\1/p' "$work/m/nomoat.json" | awk '{ exit !($1 > 0 && $1 <= 0.8) }'; }
check 'and leaves the last one below' below
check 'and no checkpoint' test ! -e "$work/m/checkpoint.safetensors"
check 'none below' ends 6 tune -o "$work/n" --max-forget 1e-9
check 'leaves nothing' no_folder n
check 'without the meter there is no limit' ends 2 tune -o "$work/n" --max-forget 1 --meter 0

# ---- the report
printf '{"prompt": "A <script>alert(1)</script> & \\"quotes\\"?", "completion": "No <b>bold</b> answer."}\n' >"$work/hostile.jsonl"
report() { "$NOMOAT" tune "$model" "$work/hostile.jsonl" --format alpaca -r 4 --max-steps 3 --meter 64 --val 0 -o "$work/h" --report "$work/h.html" -q >/dev/null 2>"$work/err"; }
check 'a report' report
inert() { ! grep -qi '<script\|<b>\|http:\|https:\|src=\|url(\|javascript' "$work/h.html" && grep -q 'A &lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot;?' "$work/h.html"; }
check 'is inert' inert
whole() { grep -q '<svg' "$work/h.html" && grep -q '<polyline class="a"' "$work/h.html" && grep -q 'prefers-color-scheme: dark' "$work/h.html" && grep -q '<th>before</th>' "$work/h.html" && grep -q '<th>learning-rate</th>\|<th>lr</th>' "$work/h.html" && tail -1 "$work/h.html" | grep -q '</html>'; }
check 'has curves, answers and settings' whole
check 'that cannot be written is said before work' ends 3 tune -o "$work/x" --report "$work/none/r.html"

# ---- a terminal
LC_ALL=C.UTF-8
export LC_ALL
progress() { on_terminal -- "$NOMOAT" tune "$model" "$data" -t 1 --format raw --max-steps 24 --batch 4 -r 4 --meter 64 --val 0.1 --patience 0 -o "$work/t"; }
check 'progress on a terminal' progress
check 'with loss, validation, speed and time' shown 'step [0-9]*/[0-9]*  loss [0-9.]* .*val [0-9.]*  [0-9]* tokens/s  [0-9]* [a-z]* left'
curve() { shown "$(printf '\033\\[36m')" && shown "$(printf '\342\226\210')" && shown "$(printf '\342\226\201')"; }
check 'and a curve' curve
NO_COLOR=1
export NO_COLOR
progress
uncoloured() { shown "$(printf '\342\226\210')" && ! shown "$(printf '\033\\[3[0-9]m')"; }
check 'NO_COLOR' uncoloured
unset NO_COLOR
check 'a dumb terminal' on_terminal -- env TERM=dumb "$NOMOAT" tune "$model" "$data" -t 1 --format raw --max-steps 4 -r 4 --meter 64 --val 0.1 -o "$work/t"
bare() { ! shown "$(printf '\033')" && shown 'step [0-9]*: loss'; }
check 'gets lines without sequences' bare
LC_ALL=C

# ---- interruptions
long() { plain --format raw --epochs 25 --batch 4 --max-length 128 -r 4 -s 7 --meter 64 --val 0.1 --patience 0 --save-every 5 --keep "$work/keep.jsonl" "$@"; }
numbers() { sed 's/"seconds": [0-9.]*//' "$1"; }
long -o "$work/p" --log "$work/p.jsonl"
# 50 kills at random moments, each followed by a run that goes on where there is something to go on with.
killed() {
    seed=$(awk 'BEGIN { srand(); print int(rand() * 1e6) }')
    pauses=$(awk -v seed="$seed" 'BEGIN { srand(seed); for (i = 0; i < 50; i++) printf "%.3f ", 0.01 + 0.25 * rand() }')
    for pause in $pauses; do
        flag=''
        [ ! -e "$work/q/checkpoint.safetensors" ] || flag=--resume
        # shellcheck disable=SC2086
        "$NOMOAT" tune "$model" "$data" -t 1 --format raw --epochs 25 --batch 4 --max-length 128 -r 4 -s 7 --meter 64 --val 0.1 --patience 0 --save-every 5 \
            --keep "$work/keep.jsonl" -o "$work/q" --log "$work/q.jsonl" $flag >/dev/null 2>"$work/err" </dev/null &
        pid=$!
        sleep "$pause"
        kill -KILL "$pid" 2>/dev/null
        wait "$pid"
    done 2>/dev/null
    flag=''
    [ ! -e "$work/q/checkpoint.safetensors" ] || flag=--resume
    # shellcheck disable=SC2086
    long -o "$work/q" --log "$work/q.jsonl" $flag || return 1
    for file in adapter_model.safetensors adapter_config.json nomoat.json README.md; do
        cmp -s "$work/p/$file" "$work/q/$file" || { echo "# $file differs; the pauses' seed was $seed"; return 1; }
    done
}
check 'killed 50 times and resumed, the same files' killed
logged_once() { numbers "$work/p.jsonl" >"$work/p.log" && numbers "$work/q.jsonl" | cmp - "$work/p.log"; }
check 'and each step once in the log' logged_once
no_litter() { [ "$(find "$work/q" -name '.nomoat*' -newer "$work/q/adapter_model.safetensors" | wc -l)" -eq 0 ]; }
check 'and nothing half-written since' no_litter

interrupt() {   # interrupt NAME ARGUMENTS...: a long run until it has a checkpoint, then Ctrl-C
    name=$1
    shift
    "$NOMOAT" tune "$model" "$data" -t 1 --format raw --epochs 2000 --batch 4 -r 4 --meter 0 --val 0 --save-every 3 -o "$work/$name" "$@" >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    wait_for test -e "$work/$name/checkpoint.safetensors" || return 1
    kill -INT "$pid"
    wait "$pid"
    [ $? -eq 130 ]
}
check 'Ctrl-C' interrupt i --report "$work/i.html" --log "$work/i.jsonl"
stopped_page() { grep -q 'interrupted' "$work/i.html" && grep -q '<svg' "$work/i.html" && grep -q '</html>' "$work/i.html"; }
check 'leaves the report so far' stopped_page
resume() { "$NOMOAT" tune "$model" "$@" -t 1 --format raw --epochs 2000 --batch 4 -r 4 --meter 0 --val 0 --save-every 3 -o "$work/i" --resume -q >"$work/out" 2>"$work/err" </dev/null; }
sed 's/number 3/number 4/' "$data" >"$work/other.jsonl"
check 'other data' ends 6 resume "$work/other.jsonl"
check 'is named' says 'other data, or another order of it'
sed 1d "$data" >"$work/other.jsonl"
check 'a missing row' ends 6 resume "$work/other.jsonl"
check 'something to keep' ends 6 resume "$data" --keep "$work/keep.jsonl"
check 'is named' says '(--keep)'
check 'another anchor' ends 6 resume "$data" --anchor 0.5
check 'no anchor' ends 6 resume "$data" --no-anchor
check 'nothing to resume' ends 3 tune -o "$work/x" --resume
check 'leaves no folder' no_folder x
check 'nor does a log that cannot be written' ends 1 tune -o "$work/x" --log "$work/none/log.jsonl"
check 'as seen' no_folder x

# ---- what would go wrong unseen
for name in a+b .hidden '' -x x.gguf; do check "no adapter is called '$name'" ends_with 2 tune "$model" "$data" -o "$name"; done
printf '{"provenance": {"settings": {"rank": 2, "log": "%s"}}}' "$work/foreign.jsonl" >"$work/config.json"
check 'settings of an adapter that would write elsewhere' ends_with 6 tune "$model" "$data" -o "$work/x" --config "$work/config.json"
check 'do not' test ! -e "$work/foreign.jsonl"
printf '{"r": 2, "format": "raw"}' >"$work/config.json"
check 'a key of one letter' plain -o "$work/b" --config "$work/config.json" --max-steps 1 --meter 0 --val 0
check 'is its option' told b '"rank": 2'
tune -o "$work/g" --max-steps 1 --gguf
tune -o "$work/g" --max-steps 1 -s 8
check 'a GGUF of an earlier run goes' test ! -e "$work/g/adapter.gguf"
closed() { "$NOMOAT" tune "$model" "$data" -t 1 --format raw --max-steps 1 --val 0 --meter 0 -o "$work/g" --log "$work/g.jsonl" 2>&- >"$work/out" </dev/null && ! grep -v '^{"step": ' "$work/g.jsonl"; }
check 'notes do not go into a log where standard error is closed' closed
masks() { run tune "$model" "$data" --format raw --show-mask --json && has '^{"sequences": \[{"file": .*"mask": \[0, .*\]}\]}$' && [ "$(grep -o '"line"' "$work/out" | wc -l)" -eq 3 ]; }
check 'masks of three rows, as JSON' masks
check 'Ctrl-C again' interrupt l --log "$work/l.jsonl"
cp "$work/l/checkpoint.safetensors" "$work/before"
moved() { ! cmp -s "$work/before" "$work/l/checkpoint.safetensors"; }
again() {       # again SIGNAL: goes on until the checkpoint is another, with a log that is no file; then the signal
    "$NOMOAT" tune "$model" "$data" -t 1 --format raw --epochs 2000 --batch 4 -r 4 --meter 0 --val 0 --save-every 3 -o "$work/l" --log /dev/null --resume >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    wait_for moved || return 1
    ends 6 "$NOMOAT" tune "$model" "$data" --format raw -o "$work/l" -q >"$work/out" 2>"$work/err2" </dev/null || return 1
    kill "-$1" "$pid"
    wait "$pid"
    [ $? -eq 130 ] && says 'with --resume goes on'
}
check 'SIGTERM keeps the work, too' again TERM
check 'a second run into the same folder is refused' grep -q 'another tune writes there' "$work/err2"
mkfifo "$work/pipe"
piped() { cat "$work/pipe" >"$work/piped" & "$NOMOAT" tune "$model" "$data" -t 1 --format raw --epochs 2000 --batch 4 -r 4 --meter 0 --val 0 -o "$work/l" --log "$work/pipe" --resume -q >"$work/out" 2>"$work/err" </dev/null & pid=$!; wait_for test -s "$work/piped" && kill -INT "$pid" && wait "$pid"; [ $? -eq 130 ]; }
check 'a pipe for a log, also of a run that goes on' piped

# ---- tools/exam
exam() { NOMOAT=$NOMOAT sh "$(dirname "$0")/../../tools/exam" "$@" >"$work/out" 2>"$work/err"; }
printf '{"question": "One?", "accept": ["."]}\n{"question": "-two?", "accept": ["no such answer"]}' >"$work/exam.jsonl"
exam "$model+$work/a" "$work/exam.jsonl"
check 'an exam counts its last line, and dashes' has '^1 of 2$'
check 'without a model it fails' ends 3 exam "$work/missing.gguf" "$work/exam.jsonl"
check 'and gives no marks' test ! -s "$work/out"
check 'nor without a file' ends 3 exam "$model" "$work/missing.jsonl"

# ---- what is read is not written over
cp "$data" "$work/data.before"
ln -s data.jsonl "$work/link.jsonl"
stays() { cmp -s "$data" "$work/data.before" && no_folder spared; }
for option in --log --report; do
    check "$option on the data is refused" ends 6 tune -o "$work/spared" "$option" "$work/link.jsonl"
    check 'which stays, and nothing else is left' stays
done
check '--log on a file of validation, too' ends 6 tune -o "$work/spared" --val "$work/keep.jsonl" --log "$work/keep.jsonl"

# ---- a full disk
check 'a limit on files' interrupt f
cp "$work/f/checkpoint.safetensors" "$work/before"
starved() { (ulimit -f 8 && "$NOMOAT" tune "$model" "$data" -t 1 --format raw --epochs 2000 --batch 4 -r 4 --meter 0 --val 0 --save-every 3 -o "$work/f" --resume -q >"$work/out" 2>"$work/err" </dev/null); }
check 'is reported' ends 1 starved
intact() { cmp -s "$work/before" "$work/f/checkpoint.safetensors" && [ -z "$(find "$work/f" -name '.nomoat*')" ]; }
check 'and leaves the checkpoint' intact
# A disk that holds two checkpoints, but not the log as it grows.
bytes=$((2 * $(wc -c <"$work/f/checkpoint.safetensors") + 40000))
if [ "$(id -u)" -eq 0 ] && mkdir "$work/disk" && mount -t tmpfs -o size="$bytes" none "$work/disk" 2>/dev/null; then
    trap 'umount "$work/disk"; rm -rf "$work"' EXIT
    fill() { plain --format raw --epochs 2000 --batch 4 --max-length 128 -r 4 -s 7 --meter 0 --val 0 --max-steps 300 --save-every 10 -q "$@"; }
    check 'a full disk is reported' ends 1 fill -o "$work/disk/s" --log "$work/disk/log.jsonl"
    check 'by name' says 'No space left'
    room() {
        mount -o remount,size=16m "$work/disk" && fill -o "$work/disk/s" --log "$work/disk/log.jsonl" --resume && fill -o "$work/s" --log "$work/s.jsonl" &&
            cmp -s "$work/s/adapter_model.safetensors" "$work/disk/s/adapter_model.safetensors" && numbers "$work/s.jsonl" >"$work/s.log" && numbers "$work/disk/log.jsonl" | cmp - "$work/s.log"
    }
    check 'with room it goes on to the same bits and log' room
else
    skip 'a full disk' 'no file system can be mounted here'
fi
finish
