#!/bin/sh
# Stacks on the command line and the adapter commands, with adapters that PEFT made on tiny models.
#   NOMOAT=build/nomoat NOMOAT_TEST_DATA=FOLDER tests/cli/adapter.sh     TAP on stdout
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
run() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }
score() { printf '{"ids": [1, 2, 3, 4, 5, 6, 7, 8]}' | "$NOMOAT" score --json --compute f32 "$@" 2>"$work/err"; }
near() {        # near A B: the last logits of two scores agree to 0.001
    for f in "$1" "$2"; do sed 's/.*"logits": \[//; s/\].*//' "$f" | tr ',' '\n' >"$f.list"; done
    paste "$1.list" "$2.list" | awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 0.001) bad = 1 } END { exit bad || !NR }'
}

model=${NOMOAT_TEST_DATA:-/nowhere}/tiny/llama3.gguf
if [ ! -e "$model" ]; then
    echo '1..0 # SKIP NOMOAT_TEST_DATA is not set'
    exit 0
fi
made=$(cd "$(dirname "$0")/../data/adapter" && pwd)
store=$HOME/.local/share/nomoat/adapters
mkdir -p "$store"
cp -r "$made/llama3" "$store/style"

# Names and scales.
score "$model" >"$work/base"
score "$model+style=0" >"$work/zero"
check 'scale 0 is the base, byte for byte' cmp -s "$work/base" "$work/zero"
check 'an adapter without a sketch is said to be unverified' says 'unverified'
score "$model+style=0.5" >"$work/half"
check 'an adapter changes the scores' sh -c "! cmp -s '$work/base' '$work/half'"
score "$model+style:0.5" >"$work/colon"
check 'a colon gives a scale, too' cmp -s "$work/half" "$work/colon"
score "$model+STYLE:latest=0.5" >"$work/latest"
check ':latest is ignored, and letter case' cmp -s "$work/half" "$work/latest"
score "$model+$made/llama3=0.5" >"$work/path"
check 'a folder' cmp -s "$work/half" "$work/path"
score "$model" --lora-scaled "$store/style/adapter_model.safetensors:0.5" >"$work/option"
check '--lora-scaled, and the weights by themselves' cmp -s "$work/half" "$work/option"
score "$model" --lora style >"$work/lora"
score "$model+style" >"$work/whole"
check '--lora' cmp -s "$work/whole" "$work/lora"
mkdir "$work/a+b=0.5"
cp "$made/llama3/"* "$work/a+b=0.5"
score "$model+$work/a+b=0.5" >"$work/odd"
check 'an existing path wins over every reading' cmp -s "$work/whole" "$work/odd"
score "$model+style=0.25+style=0.25" >"$work/twice"
check 'twice a quarter is a half' near "$work/twice" "$work/half"
check 'no such adapter' ends_with 3 run "$model+nothing" hi
check 'is named' says 'nothing'
check 'no number' ends_with 2 run "$model+style=much" hi
check 'a scale is missing' ends_with 2 run "$model" --lora-scaled "style" hi
check 'an adapter of another model' ends_with 6 run "$NOMOAT_TEST_DATA/tiny/gpt2.gguf+style" hi

# list, show.
run list
check 'list shows the adapter with its base' has 'style .* tiny/llama3'
run adapter list --json
check 'adapter list --json' has '"name": "style".*"base": "tiny/llama3"'
run adapter show style
check 'adapter show' has 'ranks *2 to 3'
run adapter show --json style
check 'adapter show --json' has '"maps": 23, "min_rank": 2, "max_rank": 3'

# export, combine.
check 'export needs the base' ends_with 2 adapter export style -o "$work/style.gguf"
run adapter export style -o "$work/style.gguf" --base "$model"
score "$model+$work/style.gguf=0.5" >"$work/gguf"
check 'a GGUF adapter does the same' near "$work/half" "$work/gguf"
check 'and is known again without a word' test ! -s "$work/err"
check 'what is there is not replaced' ends_with 6 adapter export style -o "$work/style.gguf" --base "$model"
run adapter export "$work/style.gguf" -o back --base "$model"
score "$model+back=0.5" >"$work/peft"
check 'and back to PEFT, in the store' near "$work/half" "$work/peft"
check 'with only long-standing keys' sh -c "! grep -vE '\"(alpha_pattern|base_model_name_or_path|bias|fan_in_fan_out|inference_mode|init_lora_weights|lora_alpha|lora_dropout|modules_to_save|peft_type|r|rank_pattern|target_modules|task_type|use_rslora)\"|[{}]' '$store/back/adapter_config.json'"
check 'a card and provenance' test -s "$store/back/README.md" -a -s "$store/back/nomoat.json"
run adapter combine style=0.25 back=0.25 -o both
score "$model+both" >"$work/both"
check 'combine is exact' near "$work/half" "$work/both"
run adapter combine style=0.25 back=0.25 -o small --rank 3
check 'and tells what a lower rank keeps' has 'kept 100.0000 % of the energy'
score "$model+small" >"$work/small"
check 'nothing, where it is enough' near "$work/half" "$work/small"
run adapter diff style back --base "$model"
check 'diff' has 'blk.0.attn_q'
check 'other words' ends_with 2 adapter shwo style
check 'are guessed' says 'show'

# merge.
run merge "$model+style=0.5" -o "$work/merged.gguf"
check 'merge tells what was lost' has '23 maps changed'
score "$work/merged.gguf" >"$work/merged"
check 'a merged model does the same' near "$work/half" "$work/merged"
run merge "$model" -o "$work/q8.gguf" --type Q8_0
printf '{"ids": [1, 2, 3]}' | "$NOMOAT" score "$work/q8.gguf+back" >"$work/out" 2>"$work/err"
check 'the same weights in another quantisation, and a line says so' says 'same weights as F32, here Q8_0'
other=$NOMOAT_TEST_DATA/tiny/qwen2.gguf
if printf '{"ids": [1, 2, 3]}' | "$NOMOAT" score "$other+back" >"$work/out" 2>"$work/err"; then code=0; else code=$?; fi
check 'other weights are refused, or do not fit' test "$code" -eq 6 -o "$code" -eq 4

# DoRA (Liu et al. 2024): runs, stacks and merges; what a sum of half maps cannot hold is refused.
dora=$made/../dora/llama3
run adapter show "$dora"
check 'show says DoRA' has '^format *peft, DoRA$'
run adapter show --json "$dora"
check 'and in JSON' has '"dora": true'
score "$model+$dora=0" >"$work/zero"
check 'DoRA at scale 0 is the base, byte for byte' cmp -s "$work/base" "$work/zero"
score "$model+style=0.5+$dora=0.7" >"$work/stretched"
run merge "$model+style=0.5+$dora=0.7" -o "$work/stretched.gguf"
score "$work/stretched.gguf" >"$work/merged"
check 'a merged stack with DoRA does the same' near "$work/stretched" "$work/merged"
run adapter export "$dora" -o dora --base "$model"
score "$model+style=0.5+dora=0.7" >"$work/again"
check 'written again it does the same' near "$work/stretched" "$work/again"
check 'and PEFT is told' grep -q '"use_dora": true' "$store/dora/adapter_config.json"
check 'no DoRA in GGUF' ends_with 6 adapter export "$dora" -o "$work/dora.gguf" --base "$model"
check 'says why' says 'GGUF adapters cannot hold it'
check 'nothing is left behind' test ! -e "$work/dora.gguf"
check 'no sum of DoRA' ends_with 6 adapter combine "$dora" style -o sum
check 'says what to do' says 'stack them, MODEL+A+B'
check 'no difference of half maps' ends_with 6 adapter diff "$dora" style --base "$model"
cp -r "$dora" "$work/undeclared"
sed 's/"use_dora": true/"use_dora": false/' "$dora/adapter_config.json" >"$work/undeclared/adapter_config.json"
check 'magnitudes without use_dora' ends_with 6 run "$model+$work/undeclared" hi

# The chat changes its stack between answers.
enter=$(printf '\r')
on_terminal '?>>> ' "=/stack$enter" '?adapters: none' '?>>> ' "=Hi$enter" '?Hi' '?>>> ' "=/stack back=0.5+style$enter" '?new stack' '?>>> ' "=/stack$enter" '?0.5 x back' '?1 x style' \
    '?>>> ' "=Hi$enter" '?Hi' '?>>> ' "=/stack nothing$enter" '?no file and no adapter' '?>>> ' "=/stack none$enter" '?base alone' '?>>> ' "=/bye$enter" \
    -- "$NOMOAT" run "$model" --temp 0 -n 4
check '/stack shows and changes the adapters' test $? -eq 0
finish
