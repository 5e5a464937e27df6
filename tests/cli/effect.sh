#!/bin/sh
# nomoat effect, with an adapter that PEFT made on a tiny model, and where it is there with a trained one on a real model.
#   NOMOAT=build/nomoat NOMOAT_TEST_DATA=FOLDER NOMOAT_TEST_MODELS=FOLDER tests/cli/effect.sh     TAP on stdout
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
run() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }

model=${NOMOAT_TEST_DATA:-/nowhere}/tiny/llama3.gguf
if [ ! -e "$model" ]; then
    echo '1..0 # SKIP NOMOAT_TEST_DATA is not set'
    exit 0
fi
made=$(cd "$(dirname "$0")/../data/adapter" && pwd)
store=$HOME/.local/share/nomoat/adapters
mkdir -p "$store"
cp -r "$made/llama3" "$store/style"
cp -r "$made/llama3" "$store/facts"

# Ranges are effect's alone.
check 'run refuses a range' ends_with 2 run "$model+style=0..1" hi
check 'and names effect' says 'nomoat effect'
check 'so does --lora-scaled' ends_with 2 run "$model" --lora-scaled style:0..1 hi
check 'and combine' ends_with 2 adapter combine style=0..1 -o both
check 'effect wants one' ends_with 2 effect "$model+style=1" hi
check 'and says how' says 'MODEL+ADAPTER=0..1.5'
for range in 0.. ..1 0...1..2 0..x 0..inf 1..0 0..0x2; do
    check "no range: $range" ends_with 2 effect "$model+style=$range" hi
done
check 'a missing adapter' ends_with 3 effect "$model+nothing=0..1" hi
check 'a missing model' ends_with 3 effect "nothing+style=0..1" hi
check 'no prompt' ends_with 2 effect "$model+style=0..1"
check 'an adapter of another model' ends_with 6 effect "$NOMOAT_TEST_DATA/tiny/gpt2.gguf+style=0..1" hi
check 'one step is no sweep' ends_with 2 effect "$model+style=0..1" --steps 1 hi
check 'more tokens than the context holds' ends_with 2 effect "$model+style=0..1" -q -n 4096 hi
check 'an empty prompt' ends_with 2 effect "$model+style=0..1" -q --raw ''
check 'a page whose folder is missing' ends_with 3 effect "$model+style=0..1" hi --html "$work/missing/page.html"

# What it shows. --raw, so that the prompts are the same for all.
sweep() { run effect "$model" --raw -n 8 -q --compute f32 "$@"; }
check 'a sweep' sweep --lora-scaled style:0..2 --steps 3 Hello
check 'has a line a scale' test "$(grep -c '^style=[012]  .* of .* tokens$' "$work/out")" -eq 3
check 'scale 0 is the base, to the bit' has '^style=0  *0\.0000 .* 8 of 8 tokens'
check 'the base answers first' has '^base$'
check 'no colour in a pipe' sh -c "! grep -q '$(printf '\033')' '$work/out'"
check 'and quiet is quiet' test ! -s "$work/err"
answer() { "$NOMOAT" run "$model" --raw --temp 0 --min-p 0 -n 8 -q --compute f32 --json "$@" Hello 2>/dev/null | sed 's/.*"ids": \(\[[^]]*\]\).*/\1/'; }
sweep --lora-scaled style:0..2 --steps 3 Hello --json
check 'JSON: the adapter, the text' has '"adapters": \["style"\], "text": {"ids": \['
check 'the highest answer is that of run' has "\"scales\": \[2\], .*\"ids\": $(answer --lora-scaled style:2 | sed 's/[][]/\\&/g')"
check "and the base's is that of the base" has "\"base\": {.*\"ids\": $(answer | sed 's/[][]/\\&/g')"
check 'nothing moves at scale 0' has '"scales": \[0\], "mean_kl": 0,'
far() { sed 's/"scales": \[/\n&/g' "$work/out" | sed -n 's/^"scales": \[\([0-9.]*\)\], "mean_kl": \([0-9.e-]*\).*/\1 \2/p' | awk '{ if ($2 < last) bad = 1; last = $2; n++ } END { exit bad || n != 4 || last <= 0 }'; }
check 'and more the higher it is' far
cp "$work/out" "$work/one"
run effect "$model+style=0..2" --raw -n 8 -q --compute f32 --steps 3 Hello --json -t 1
check 'threads change nothing' sh -c "sed 's/\"model\": \"[^\"]*\"//' '$work/one' >'$work/a'; sed 's/\"model\": \"[^\"]*\"//' '$work/out' >'$work/b'; cmp -s '$work/a' '$work/b'"
printf 'Hello\n' | "$NOMOAT" effect "$model+style=0..2" --raw -n 8 -q --compute f32 --steps 3 --json - >"$work/out" 2>"$work/err"
check '- is standard input' cmp -s "$work/b" "$(sed 's/"model": "[^"]*"//' "$work/out" >"$work/c"; echo "$work/c")"
run effect "$model+style=0..1+facts=0.5" --raw -n 4 -q --steps 2 --json Hello
check 'an adapter without a range stays' has '"adapters": \["style"\]'
check 'and is in the base' has '"scales": \[0\], "mean_kl": 0,'
run effect "$model+style=-1..1+facts=0..0.5" --raw -n 4 -q --steps 3 Hello
check 'two go up together' has '^style=0 facts=0\.25 '

# The page: nothing from outside, no script, foreign text as text.
run effect "$model+style=0..1" --raw -n 4 --steps 2 "<script>alert('&')</script>$(printf '\033')[31m" --html "$work/page.html"
check 'a page' test -s "$work/page.html"
check 'its name is told' says 'page.html: written'
check 'the prompt is escaped' grep -q '&lt;script&gt;alert(&#39;&amp;&#39;)' "$work/page.html"
check 'control characters are written out' sh -c "! grep -q '$(printf '\033')' '$work/page.html' && grep -q 'x1b\[31m' '$work/page.html'"
check 'nothing is loaded, nothing runs' sh -c "! grep -qiE '<script|<link|<img|src=|href=|url\(|@import' '$work/page.html'"
check 'a button for each scale' test "$(grep -c 'type="radio"' "$work/page.html")" -eq 2
run effect "$model+style=0..1" --raw -n 4 --steps 2 hi --json --html "$work/again.html"
check 'JSON and a page at once' has '^{"model"'

# A terminal.
on_terminal -- "$NOMOAT" effect "$model+style=0..2" --raw -n 6 --steps 2 Hello
check 'colour on a terminal' shown "$(printf '\033\\[1m')base"
NO_COLOR=1 on_terminal -- "$NOMOAT" effect "$model+style=0..2" -q --raw -n 6 --steps 2 Hello
check 'but not with NO_COLOR' sh -c "! grep -q '$(printf '\033')' '$work/screen'"

real=${NOMOAT_TEST_MODELS:-/nowhere}/smollm2-135m-instruct-q4_1.gguf
trained=$NOMOAT_TEST_DATA/oracle/lora_a/final
if [ -e "$real" ] && [ -e "$trained/adapter_config.json" ]; then
    run effect "$real+$trained=0..1" -n 12 --steps 2 'Natalia sold 48 clips in April and half as many in May. How many clips did she sell?' --json
    check 'a trained adapter on a real model' has '"scales": \[1\], "mean_kl": [0-9]*\.[0-9]'
    "$NOMOAT" run "$real+$trained" --temp 0 --min-p 0 -n 12 --json 'Natalia sold 48 clips in April and half as many in May. How many clips did she sell?' 2>/dev/null |
        sed 's/.*"ids": \(\[[^]]*\]\).*/\1/' >"$work/ids"
    check 'answers as run does' has "$(sed 's/[][]/\\&/g' "$work/ids")"
    # shellcheck disable=SC2016  # the inner shell's
    on_terminal '?sweeping' "=$(printf '\003')" -- sh -c 'trap : INT; "$0" effect "$1" -n 200 --steps 50 "Tell me a story." --html "$2"; echo "ends $?"' "$NOMOAT" "$real+$trained=0..1" "$work/none.html"
    check 'Ctrl-C ends it' shown 'ends 130'
    check 'and leaves no page' test ! -e "$work/none.html" -a -z "$(find "$work" -maxdepth 1 -name '.nomoat-*')"
else
    skip 'a trained adapter on a real model' NOMOAT_TEST_MODELS
fi
finish
