#!/bin/sh
# import, list, rm, doctor, and names given to other commands, with a tiny model.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"
model=${NOMOAT_TEST_DATA:-}/tiny/llama.gguf
if [ ! -f "$model" ]; then
    skip 'the store' NOMOAT_TEST_DATA
    finish
fi
cp "$model" "$work/Tiny Llama.gguf"
store=$HOME/.local/share/nomoat/models
run() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }

check 'import' run import "$work/Tiny Llama.gguf"
check 'names it after the file' test -f "$store/Tiny-Llama/Tiny-Llama.gguf"
check 'the same name again is refused' ends_with 6 import "$work/Tiny Llama.gguf"
check 'unless forced' run import "$work/Tiny Llama.gguf" --force
check 'a name of its own, copied' run import "$work/Tiny Llama.gguf" --name tiny:1 --copy --json
check 'as JSON' has '"stored": "copy"'
printf 'no model, though it is called one' >"$work/bad.gguf"
check 'what is no model is not taken' ends_with 4 import "$work/bad.gguf"
check 'nothing of it is left' test ! -e "$store/bad" -a ! -e "$store/.tmp"
head -c 5000 "$work/Tiny Llama.gguf" >"$work/cut.gguf"
check 'nor a download that broke off' ends_with 4 import "$work/cut.gguf"
check 'a missing file' ends_with 3 import "$work/missing.gguf"
check 'a bad name' ends_with 2 import "$work/Tiny Llama.gguf" --name a/b
run list
check 'list shows both' test "$(grep -c ' store ' "$work/out")" -eq 2
check 'names alone' prints "$(printf 'Tiny-Llama\ntiny:1')" list --names
run list --json
check 'as JSON' has '"name": "tiny:1", "place": "store"'
check 'a name is a model' run show tiny:1
check ':latest is ignored' run show tiny:1:latest
check 'letter case does not matter' run show tiny-llama
check 'a mistyped name' ends_with 3 show Tiny-Lama
check 'is told the nearest' says 'did you mean Tiny-Llama'
mkdir "$work/tiny:1"
hidden() { (cd "$work" && ends_with 4 show tiny:1); }
check 'a folder of its name hides it' hidden
check 'and the way round is told' says "'tiny:1:latest' means the model"
cp "$model" "$work/x-00001-of-00003.gguf"
check 'a split whose parts are missing' ends_with 3 import "$work/x-00001-of-00003.gguf"
check 'is told what to do' says 'x-00002-of-00003.gguf: part 2 of 3 is missing: put all parts'
run list --json
if grep -q sha256 "$work/out" || run list --json && has sha256; then
    check 'doctor --verify finds all well' run doctor --verify
    printf x | dd of="$store/tiny:1/Tiny-Llama.gguf" bs=1 seek=5000 conv=notrunc 2>/dev/null
    bad_store() { run doctor --verify; [ $? -eq 4 ] && has 'tiny:1: .*has changed'; }
    check 'and a changed file' bad_store
    once() { ! has 'tiny:1: tiny:1'; }
    check 'named once' once
else
    skip 'doctor --verify' 'no SHA-256'
fi
mkdir -p "$store/broken/SHA256SUMS"
: >"$store/broken/a.gguf"
left_out() { run list && says 'SHA256SUMS.*left out' && has '^tiny:1 '; }
check 'an entry that cannot be read is left out' left_out
check 'and in nobody'"'"'s way' run show tiny-llama
rm -r "$store/broken"
check 'rm with a name that is not there' ends_with 3 rm tiny:1 nosuch
check 'says which' says '^nomoat: nosuch: '
check 'and removes nothing' test -d "$store/tiny:1"
check 'a name given twice' ends_with 2 rm tiny:1 tiny:1
exec 8>>"$store/.lock"
flock 8 2>/dev/null && locked=yes || locked=
if [ "$locked" ]; then
    # shellcheck disable=SC2016  # the inner shell's
    on_terminal '?another nomoat changes the store; waiting' "=$(printf '\003')" -- sh -c 'trap : INT; "$0" import "$1" --name waits; echo "ends $?"' "$NOMOAT" "$work/Tiny Llama.gguf"
    check 'import waits for another nomoat, and Ctrl-C ends that' shown 'ends 130'
else
    skip 'import waits for another nomoat' 'no flock'
fi
exec 8>&-
limited() { (ulimit -f 8; "$NOMOAT" import "$work/Tiny Llama.gguf" --name limited --copy >"$work/out" 2>"$work/err"); [ $? -eq 1 ] && [ "$(wc -l <"$work/err")" -eq 1 ]; }
check 'a limit on the size of files is exit 1 with a line' limited
check 'and leaves nothing' test ! -e "$store/.tmp" -a ! -e "$store/limited"
check 'rm' prints '{"removed": ["tiny:1"]}' rm tiny:1 --json
check 'takes the folder away' test ! -e "$store/tiny:1"
check 'and leaves the original' test -f "$work/Tiny Llama.gguf"

cache=$HOME/.cache/huggingface/hub/models--org--small
mkdir -p "$cache/snapshots/c1" "$cache/blobs" "$cache/refs"
cp "$model" "$cache/blobs/b"
ln -s ../../blobs/b "$cache/snapshots/c1/small-F32.gguf"
printf c1 >"$cache/refs/main"
check 'a model in the Hugging Face cache' run show org/small
check 'by a part of its file name' run show org/small:f32
check 'by its file name' run show org/small/small-F32.gguf
rm "$cache/blobs/b"
check 'a broken link in it' ends_with 3 show org/small
check 'is told as such' says 'broken link'
cp "$model" "$cache/blobs/b"
check 'rm leaves other programs alone' ends_with 6 rm org/small
check 'and says where it lies' says 'Hugging Face cache'
check 'another file is not there' ends_with 3 show org/small:Q8_0
run list
check 'list shows it' has 'org/small .* hf-cache'

# Adapters: PEFT folders, their weights alone, GGUF files.
made=$(cd "$(dirname "$0")/../data/adapter" && pwd)
adapters=$HOME/.local/share/nomoat/adapters
other=$NOMOAT_TEST_DATA/tiny/llama3.gguf
cp -r "$made/llama3" "$work/My Style"
mkdir "$work/My Style/checkpoint"
echo secret >"$work/My Style/optimizer.pt"
check 'import of a PEFT folder' run import "$work/My Style"
check 'tells what it is' has '^My-Style: adapter, .*; made for tiny/llama3$'
check 'names it after the folder' test -f "$adapters/My-Style/adapter_model.safetensors" -a -f "$adapters/My-Style/adapter_config.json"
check 'and takes what belongs to an adapter' test ! -e "$adapters/My-Style/optimizer.pt" -a ! -e "$adapters/My-Style/checkpoint"
check 'list shows it with its base' sh -c "'$NOMOAT' list | grep -q '^My-Style .* tiny/llama3\$'"
scores() { echo '{"ids": [1, 2, 3]}' | "$NOMOAT" score "$1" --json >"$work/out" 2>"$work/err"; }
check 'it works at once' scores "$other+my-style=0.5"
check 'the same name again is refused' ends_with 6 import "$work/My Style"
check 'unless forced' run import "$work/My Style" --force
check 'its weights alone, by a name' run import "$work/My Style/adapter_model.safetensors" --name style --copy --json
check 'as JSON' has '"name": "style", .*"stored": "copy", "base": "tiny/llama3"'
run adapter export style -o "$work/style.gguf" --base "$other"
check 'a GGUF adapter' run import "$work/style.gguf" --name ggstyle
check 'lies in a folder of its own' test -f "$adapters/ggstyle/ggstyle.gguf"
check 'and works at once' scores "$other+ggstyle"
relative() { (cd "$work/My Style" && run import . --force); }
check 'a folder called .' relative
check 'has its real name' has '^My-Style: '
cp "$work/style.gguf" "$adapters/flat.gguf"
check 'a name that a file has is refused' ends_with 6 import "$work/My Style" --name flat
for name in ../up a/b .hid style:0.8 a+b; do check "a bad name: $name" ends_with 2 import "$work/My Style" --name "$name"; done
mkdir "$work/half"
cp "$made/llama3/adapter_config.json" "$work/half"
check 'weights are missing' ends_with 3 import "$work/half" --name half
head -c 700 "$made/llama3/adapter_model.safetensors" >"$work/half/adapter_model.safetensors"
check 'weights are cut' ends_with 4 import "$work/half"
check 'are named' says 'half/adapter_model.safetensors'
cp "$made/llama3/adapter_model.safetensors" "$work/half"
echo '{"peft_type": "IA3"}' >"$work/half/adapter_config.json"
check 'another kind of adapter' ends_with 6 import "$work/half"
check 'nothing of them is left' test ! -e "$adapters/half" -a ! -e "$adapters/.tmp"
check 'an adapter is no model' ends_with 6 run "$work/style.gguf" hi
check 'rm takes adapters, too' prints '{"removed": ["STYLE", "flat"]}' rm STYLE flat --json
check 'from the disk' test ! -e "$adapters/style" -a ! -e "$adapters/flat.gguf"
check 'and leaves the original' test -f "$work/My Style/adapter_model.safetensors"
check 'a missing one' ends_with 3 rm +nothing
check 'one in two spellings removes nothing' ends_with 2 rm +my-style MY-STYLE
run import "$work/Tiny Llama.gguf" --name my-style --force
check 'a model and an adapter of one name' ends_with 2 rm my-style
check 'are told apart' says '+my-style for the adapter, my-style:latest for the model'
check 'the model' run rm my-style:latest
check 'leaves the adapter' test -d "$adapters/My-Style"
check 'the adapter' run rm +my-style
check 'is gone' test ! -e "$adapters/My-Style"
mkdir "$work/tricky"
cp "$made/llama3/adapter_model.safetensors" "$work/tricky"
sed 's|"tiny/llama3"|"../../\\u001b[31m\\nx\\"y"|' "$made/llama3/adapter_config.json" >"$work/tricky/adapter_config.json"
run import "$work/tricky"
tricky() { [ "$(wc -l <"$work/out")" -eq 1 ] && has 'x1b\[31m' && ! grep -q "$(printf '\033')" "$work/out" "$work/err"; }
check "a base's name with control characters stays one safe line" tricky
finish
