#!/bin/sh
# The command line itself: help, mistakes and their codes, completion, man page. Needs no model.
# shellcheck disable=SC2317,SC1091,SC2154  # functions are called through check
. "$(dirname "$0")/common.sh"

out() { "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null; }
has() { grep -q -- "$1" "$work/out"; }

out
check 'alone it tells the commands' has '^  run  '
out --version
check 'the version' has '^nomoat [0-9]'
for command in run show list import rm tokenize detokenize template score perplexity bench tune adapter merge effect doctor completion man; do
    out help $command
    check "help $command has examples" has '^Examples:'
    cp "$work/out" "$work/help"
    out $command --help
    check "$command --help is the same" cmp -s "$work/out" "$work/help"
    twice=$(sed -n '/ptions:$/,$p' "$work/help" | sed -n 's/^  \(-[^ ].*\)/\1/p' | sed 's/   .*//' | tr -s ', ' '\n' | grep '^-' | sort | uniq -d)
    check "no spelling of $command stands for two things" test -z "$twice"
done
check 'an unknown command' ends_with 2 rnu
check 'is told the nearest' says "did you mean 'run'"
check 'an unknown flag' ends_with 2 run --temprature 1 m
check 'is told the nearest' says 'did you mean --temperature'
check 'a flag without its value' ends_with 2 run m -n
check 'a value out of range' ends_with 2 run m --top-p 2
check 'a word too many' ends_with 2 show a b
check 'a word too few' ends_with 2 show
check 'a word with one dash' ends_with 2 run m -ngl 99
check 'is no flag with a value attached' says 'unknown option -ngl'
check 'a long flag with one dash' ends_with 2 run m -system foo
check 'is told the right one' says 'did you mean --system'
check 'a text that looks like a flag' ends_with 2 run m '-5 + 3'
check 'is told --' says 'put -- before it'
check '--raw with --system' ends_with 2 run m hi --system x --raw
check 'is told what conflicts' says '^nomoat: --raw '
check 'an empty template' ends_with 2 run m hi --template ''
check 'a + within a path is no stack' ends_with 3 run /nowhere/c++/m.gguf hi
check 'a flag before the command' ends_with 2 --threads 2 run
check 'an unknown tier' ends_with 2 doctor --kernels nothing
amx() { out doctor --kernels amx && { has '^kernels.*using amx' || says 'kernels amx: this machine cannot'; }; }
check 'a tier that the machine lacks is told' amx
check 'a missing model' ends_with 3 run missing-model hi
check 'a missing file' ends_with 3 run ./missing.gguf hi
check 'a folder' ends_with 4 run / hi
mkfifo "$work/pipe.gguf"
check 'a pipe' ends_with 4 show "$work/pipe.gguf"
check 'a device' ends_with 4 show /dev/null
printf 'GGUF' >"$work/cut.gguf"
check 'a cut file' ends_with 4 show "$work/cut.gguf"
check 'is named' says "$work/cut.gguf"
printf 'not a model at all, but long enough to be read as one' >"$work/text.gguf"
check 'a text' ends_with 4 run "$work/text.gguf" hi
check 'a stack' ends_with 3 run model+adapter hi
check 'an adapter' ends_with 3 run --lora a.gguf model hi
check 'control characters in a name stay off the terminal' ends_with 3 show "$(printf 'a\033[31mb')"
check 'and are written out' says 'a\\x1b\[31mb'
check 'nothing to list' ends_with 0 list
check 'nothing to remove' ends_with 3 rm model
check 'a bad name' ends_with 2 rm ../model
check 'no template file' ends_with 3 template "$work/missing.jinja"

printf '{{ messages[0].content }}|{{ tools is none }}|{{ strftime_now("%%Y-%%m-%%dT%%H:%%M:%%S") }}' >"$work/t.jinja"
vars='{"messages": [{"content": "Hi"}]}'
template() { printf '%s' "$vars" | prints "$1" template "$work/t.jinja" --now "$2"; }
check 'a template' template 'Hi|True|2026-01-02T03:04:05' 2026-01-02T03:04:05
check 'a time with an offset' template 'Hi|True|2026-01-02T01:04:05' 2026-01-02T03:04:05+02:00
check 'a day alone' template 'Hi|True|2026-01-02T00:00:00' 2026-01-02
check 'no time' ends_with 2 template "$work/t.jinja" --now tomorrow
for now in 2026-02-29 2026-04-31 2026-1-02 26-01-02 2026-01-02T 2026-01-02T3:04 2026-01-02T24:00 2026-01-02T03:04: 2026-01-02T03:04:60 2026-01-02T03:04:05. \
    2026-01-02T03:04:05+2 2026-01-02T03:04:05+25:00 2026-01-02T03:04:05+02:7 2026-01-02T03:04:05Zx '2026-01- 2' '2026-01-02T+3:04' 2026-01-02Z; do
    check "nor is $now" ends_with 2 template "$work/t.jinja" --now "$now"
done
check 'a leap day' template 'Hi|True|2028-02-29T12:00:00' 2028-02-29T12:00Z
check 'an offset without a colon' template 'Hi|True|2026-01-02T05:34:05' 2026-01-02T03:04:05.25-0230
as_json() { printf '%s' "$vars" | prints '{"text": "Hi|True|2026-01-02T00:00:00"}' template "$work/t.jinja" --now 2026-01-02 --json; }
check 'as JSON' as_json
printf '{{ raise_exception("no") }}' >"$work/refuse.jinja"
refuses() { echo '{}' | "$NOMOAT" template "$work/refuse.jinja" >"$work/out" 2>"$work/err"; [ $? -eq 6 ]; }
check "a template's own refusal" refuses
printf '{%% for i in range(90000) %%}{%% for j in range(90000) %%}{%% endfor %%}{%% endfor %%}' >"$work/loop.jinja"
# SIGINT is signal 2, bit 1; before the name is nomoat it is the shell that catches
catches() { awk '/^Name/ { name = $2 } /^SigCgt/ { exit name != "nomoat" || $2 !~ /[2367abef]$/ }' "/proc/$1/status"; }
looping() { exec "$NOMOAT" template "$work/loop.jinja" <"$work/vars" >"$work/out" 2>"$work/err"; }
stops() {
    echo '{}' >"$work/vars"
    catch catches looping || return 1       # at once: its steps are bounded
    kill -INT "$pid"
    wait "$pid"
    [ $? -eq 130 ] && [ ! -s "$work/err" ]
}
check 'Ctrl-C stops a template' stops
not_json() { echo 'x' | "$NOMOAT" template "$work/t.jinja" >"$work/out" 2>"$work/err"; [ $? -eq 2 ]; }
check 'variables that are no JSON' not_json

if command -v bash >/dev/null; then
    "$NOMOAT" completion bash >"$work/completion"
    check 'the completion is a bash script' bash -n "$work/completion"
    # completes WORDS: COMP_WORDS as readline cuts them; nomoat itself is a stub that knows two names
    completes() { bash -c "nomoat() { printf 'b:1\norg/name\n'; }; . '$work/completion'; COMP_WORDS=($1); COMP_CWORD=\$((\${#COMP_WORDS[@]} - 1)); _nomoat; echo \"\${COMPREPLY[*]}\""; }
    check 'it completes commands' test "$(completes 'nomoat tok')" = tokenize
    check 'flags' test "$(completes 'nomoat run --temp')" = '--temperature --temp --template --template-file'
    check 'and their words' test "$(completes 'nomoat run --kv q')" = q8_0
    check 'behind =, too' test "$(completes 'nomoat run --kv = q')" = q8_0
    check 'or where = cuts no word' test "$(completes 'nomoat run --kv=q')" = '--kv=q8_0'
    check 'names' test "$(cd "$work" && completes 'nomoat show b')" = b:1
    check 'behind their :' test "$(completes 'nomoat show b : 1')" = 1
    check 'where nothing follows the :' test "$(completes 'nomoat show b :')" = 1
    check 'flags before a command' test "$(completes 'nomoat --')" = '--help --version'
    check 'files for a flag that takes one' test "$(cd "$work" && completes 'nomoat run m -f completi')" = completion
    check 'shells' test "$(completes "nomoat completion ''")" = bash
    check 'of rm the names in the store alone' test "$(cd "$work" && completes "nomoat rm ''")" = b:1
    check 'commands behind help' test "$(completes 'nomoat help tok')" = tokenize
    check 'nothing for a number' test -z "$(cd "$work" && completes "nomoat run m -n ''")"
else
    skip 'completion' 'no bash'
fi
if command -v groff >/dev/null; then
    "$NOMOAT" man >"$work/man"
    check 'the man page has no faults' test -z "$(groff -man -Tutf8 -ww "$work/man" 2>&1 >/dev/null)"
else
    skip 'the man page has no faults' 'no groff'
fi
full() { "$NOMOAT" help run >/dev/full 2>"$work/err"; [ $? -eq 1 ] && says 'No space left'; }
if [ -c /dev/full ]; then check 'a full disk is exit 1' full; else skip 'a full disk' 'no /dev/full'; fi
closed() { { "$NOMOAT" man 2>"$work/err"; echo $? >"$work/code"; } | head -n 1 >/dev/null; [ ! -s "$work/err" ] && [ "$(cat "$work/code")" = 0 ]; }
check 'a closed pipe ends quietly' closed
finish
