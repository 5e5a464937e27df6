# What compare and goals share: running nomoat and its peers, and medians. Sourced; set before: here (this folder), ours, peer, ik (paths; '' = none), threads, work (a folder), out
# (a file, '' = none). MEASURE is a command put before each program that is timed (e.g. one that takes a lock, or "chrt -f 20").
# shellcheck shell=sh disable=SC2154
# Figures are kept in $work/data, a line each:   MODEL ROUND WHO TEST DEPTH TOKENS_PER_SECOND SHARE INT8_SHARE TIMES EXTRA
# TEST as nomoat bench names it; TIMES: the time over that without depth or adapters; EXTRA: attention's share, or the adapters' part of the bytes; "-" for what lacks.

say() {
    printf '%s\n' "$*"
    [ -z "$out" ] || printf '%s\n' "$*" >>"$out"
}

# The first value of a key in JSON.
field() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" "$2" | head -n 1; }

# ours_collect MODEL ROUND FILE ARGUMENTS...: nomoat bench. What it says of the machine stays in $work/ours.
# shellcheck disable=SC2086  # flags are lists of words
ours_collect() {
    key=$1 round=$2 file=$3
    shift 3
    ${MEASURE:-} "$ours" bench "$file" "$@" ${threads:+-t "$threads"} ${NOMOAT_FLAGS:-} --json >"$work/ours" || return 1
    field read_gb_per_s "$work/ours" >>"$work/read"
    awk -v key="$key" -v round="$round" '
        function get(name,    at) {
            if (!match($0, "\"" name "\": ([{]\"median\": )?[0-9.e+-]+")) return "-"
            at = substr($0, RSTART, RLENGTH)
            sub(/.*[ ]/, "", at)
            return at
        }
        function first(a, b) { return a == "-" ? b : a }
        BEGIN { RS = "[{]\"name\": " }
        NR > 1 {
            split($0, part, "\"")
            print key, round, "ours", part[2], get("depth"), get("tokens_per_second"), get("share"), get("int8_share"), first(get("times_depth_0"), get("times_without_adapters")),
                first(get("attention_share"), get("adapters_of_bytes"))
        }' "$work/ours" >>"$work/data"
}

# peer_collect MODEL ROUND FILE WHO ARGUMENTS...: llama-bench of llama.cpp (WHO peer) or ik_llama.cpp (ik).
# shellcheck disable=SC2086
peer_collect() {
    key=$1 round=$2 file=$3 who=$4
    shift 4
    program=$peer flags=${PEER_FLAGS-'-fa 1'}
    [ "$who" = peer ] || program=$ik flags=${IK_FLAGS-'-fa 1 -rtr 1'}
    ${MEASURE:-} "$program" -m "$file" "$@" -r 1 -t "$threads" $flags -o json >"$work/$who" 2>"$work/$who.err" || { tail -n 3 "$work/$who.err" >&2; return 1; }
    tr ',' '\n' <"$work/$who" | awk -v key="$key" -v round="$round" -v who="$who" '
        /"n_prompt":/ { prompt = $NF } /"n_gen":/ { gen = $NF } /"n_depth":/ { depth = $NF }
        /"avg_ts":/ { print key, round, who, (prompt > 0 ? "pp" prompt : "tg" gen), depth + 0, $NF, "-", "-", "-", "-" }' >>"$work/data"
}

# together_collect MODEL ROUND FILE WHO TOKENS LIST: llama-batched-bench beside llama-bench, LIST sessions with 16 tokens each decode TOKENS more; nothing where it lacks.
# shellcheck disable=SC2086
together_collect() {
    program=$(dirname "$peer")/llama-batched-bench flags='-fa on'
    [ "$4" = peer ] || program=$(dirname "$ik")/llama-batched-bench flags='-fa on -rtr'
    [ -x "$program" ] || return 0
    most=$(echo "$6" | tr , '\n' | sort -n | tail -n 1)
    ${MEASURE:-} "$program" -m "$3" -c $((most * (16 + $5) + 64)) -npp 16 -ntg "$5" -npl "$6" -t "$threads" $flags >"$work/$4" 2>&1 || { tail -n 3 "$work/$4" >&2; return 1; }
    awk -F '|' -v key="$1" -v round="$2" -v who="$4" '$4 + 0 > 0 && NF > 9 { gsub(/ /, ""); print key, round, who, "tg" $3 "@" $4, 16, $9, "-", "-", "-", "-" }' "$work/$4" >>"$work/data"
}

# first_token FILE ROUNDS: lines "OURS_SECONDS OURS_MB PEER_SECONDS PEER_MB" of whole programs from their start to one token, in turn ("-" without a llama-completion).
# The first round warms caches and is not counted.
# shellcheck disable=SC2086
first_token() {
    completion=${peer:+$(dirname "$peer")/llama-completion}
    i=0
    while [ "$i" -le "$2" ]; do
        a=$(${MEASURE:-} "$here/watch" "$ours" run "$1" --raw -n 1 --temp 0 ${threads:+-t "$threads"} ${NOMOAT_FLAGS:-} 'Once upon a time') || return 1
        b='- -'
        [ ! -x "$completion" ] || b=$(${MEASURE:-} "$here/watch" "$completion" -m "$1" -no-cnv -n 1 --temp 0 -c 4096 -t "$threads" -p 'Once upon a time') || return 1
        [ "$i" -eq 0 ] || echo "$a $b"
        i=$((i + 1))
    done
}

# Numbers of column $1 on stdin -> "median min max q1 q3", nothing where there are none.
quantiles() {
    awk -v c="$1" '$c != "-" && $c != "" { print $c }' | sort -g | awk '{ v[NR] = $1 }
        function q(p,    at, low) { at = 1 + p * (NR - 1); low = int(at); return low < NR ? v[low] + (at - low) * (v[low + 1] - v[low]) : v[NR] }
        END { if (NR) printf "%.5g %.5g %.5g %.5g %.5g", q(0.5), v[1], v[NR], q(0.25), q(0.75) }'
}

# values MODEL WHO TEST DEPTH COLUMN: that column of each round.
values() { awk -v m="$1" -v w="$2" -v t="$3" -v d="$4" -v c="$5" '$1 == m && $3 == w && $4 == t && $5 == d { print $c }' "$work/data"; }

# ratios MODEL TEST DEPTH WHO: ours over theirs, within each round that has both.
ratios() {
    awk -v m="$1" -v t="$2" -v d="$3" -v w="$4" '$1 == m && $4 == t && $5 == d { v[$2, $3] = $6; rounds[$2] = 1 }
        END { for (r in rounds) if (v[r, "ours"] > 0 && v[r, w] > 0) print v[r, "ours"] / v[r, w] }' "$work/data"
}

# What the machine is and does, for the head of a table; needs $work/ours.
machine_line() {
    echo "$(date -u +%Y-%m-%dT%H:%MZ), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), tier $(field tier "$work/ours"), $threads threads${NOMOAT_FLAGS:+, $NOMOAT_FLAGS}; load average before: $(cut -d ' ' -f 1 /proc/loadavg)"
}
limits_line() {
    echo "limits: read $(field read_gb_per_s "$work/ours") GB/s, fp32 $(field fp32_gflops "$work/ours") GFLOP/s, bf16 $(field bf16_gflops "$work/ours") GFLOP/s, int8 $(field int8_gops "$work/ours") GOP/s, AMX int8 $(field amx_int8_gops "$work/ours") GOP/s"
}
