#!/bin/sh
# Counts instructions per multiply-add of some kernels (count.h) under callgrind and holds them to instructions.txt beside this script: a regression that no
# noise of the machine hides. More than 3 % above what is recorded fails; as much below passes and asks to be recorded.
#   instructions.sh TEST_KERNELS BUILD [--record]      TAP on stdout; BUILD: words for compiler, processor and optimisation, which counts belong to
#   ninja -C build record-instructions                 records anew
set -u
program=$1 build=$2 record=${3:-}
file=$(dirname "$0")/instructions.txt

skip() { echo "1..0 # SKIP $*"; exit 0; }
stop() { echo "1..1"; echo "not ok 1 - $*"; exit 1; }

recorded=$(sed -n 's/^build: //p' "$file" 2>/dev/null)
[ -n "$record" ] || [ "$build" = "$recorded" ] || skip "counts are recorded for $recorded; this build is $build"
command -v valgrind >/dev/null 2>&1 || skip "valgrind is not installed"

work=$(mktemp -d) || stop "no temporary folder"
trap 'rm -rf "$work"' EXIT
valgrind --tool=callgrind --callgrind-out-file="$work/out" --collect-atstart=no --toggle-collect=counted_kernel --dump-after=counted_kernel \
    "$program" --count >"$work/cases" 2>"$work/log" || stop "callgrind ended with an error: $(tail -n 1 "$work/log")"

# Case i of the program's output is dump out.i.
i=0
while read -r tier name multiply_adds; do
    i=$((i + 1))
    awk -v case="$tier $name" -v n="$multiply_adds" '/^(totals|summary):/ { t = $2 } END { if (t > 0) printf "%s %.4f\n", case, t / n }' "$work/out.$i"
done <"$work/cases" >"$work/counts"
if [ "$i" -eq 0 ] || [ "$(wc -l <"$work/counts")" -ne "$i" ]; then stop "callgrind counted nothing in some case"; fi

if [ -n "$record" ]; then
    { sed '/^build: /,$d' "$file"; echo "build: $build"; cat "$work/counts"; } >"$work/new" && cp "$work/new" "$file" && cat "$file"
    exit
fi

# A tier that callgrind does not offer on this machine has no counts: a skip for each of its cases.
awk -v counts="$work/counts" '
    BEGIN { while ((getline line <counts) > 0) { split(line, part, " "); got[part[1] " " part[2]] = part[3] } }
    NF != 3 || /^(#|build:)/ { next }
    {
        case = $1 " " $2; n++
        if (!(case in got)) { print "ok " n " - " case " # SKIP not offered under callgrind on this machine"; next }
        says = case ": " got[case] " instructions a multiply-add, recorded " $3
        if (got[case] > 1.03 * $3) { print "not ok " n " - " says; worse = 1 }
        else print "ok " n " - " says (got[case] < 0.97 * $3 ? "; better: ninja -C build record-instructions" : "")
        seen[case] = 1
    }
    END {
        for (case in got) if (!(case in seen)) { n++; print "not ok " n " - " case " is not recorded: ninja -C build record-instructions"; worse = 1 }
        print "1.." n
        exit worse
    }' "$file"
