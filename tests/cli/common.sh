# What the command-line tests share: TAP on stdout, a work folder with a home of its own. Sourced, with the program's path in NOMOAT
# and that of terminal.c in TERMINAL.
# shellcheck shell=sh disable=SC2034  # the variables are the tests'
set -u
n=0
bad=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
HOME=$work/home
mkdir "$HOME"
export HOME
unset XDG_DATA_HOME XDG_CACHE_HOME XDG_STATE_HOME HF_HOME HF_HUB_CACHE NO_COLOR EDITOR VISUAL

check() {       # check NAME COMMAND...: ok if the command succeeds
    name=$1
    shift
    n=$((n + 1))
    if "$@"; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        [ ! -s "$work/err" ] || sed 's/^/# stderr: /' "$work/err"
        bad=1
    fi
}
skip() {        # skip NAME WHY
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}
ends_with() {   # ends_with CODE ARGUMENTS...: exit code, nothing on stdout, one line on stderr; standard input is empty
    code=$1
    shift
    "$NOMOAT" "$@" >"$work/out" 2>"$work/err" </dev/null
    [ $? -eq "$code" ] && [ ! -s "$work/out" ] && [ "$(wc -l <"$work/err")" -eq 1 ]
}
says() { grep -q -- "$1" "$work/err"; }         # on stderr of the last ends_with or run
prints() {      # prints TEXT ARGUMENTS...: exactly that on stdout, exit code 0; standard input is passed on
    expected=$1
    shift
    "$NOMOAT" "$@" >"$work/out" 2>"$work/err" && [ "$(cat "$work/out")" = "$expected" ]
}
on_terminal() { # on_terminal [STEP...] -- COMMAND...: with a pseudo terminal, see terminal.c; what it showed in $work/screen
    TERM=xterm "$TERMINAL" "$@" >"$work/screen" 2>"$work/err"
}
shown() { grep -q -- "$1" "$work/screen"; }
wait_for() {    # wait_for COMMAND...: until it succeeds, for some minutes at most: the machine may do other things as well
    tries=2000
    until "$@"; do
        [ $((tries -= 1)) -gt 0 ] || return 1
        sleep 0.1
    done
}
busy() {        # busy PID: it has computed for two seconds; long enough to be past opening a tiny model, however slow the machine
    awk -v tick="$(getconf CLK_TCK)" '{ sub(/^.*\) /, ""); exit $12 + $13 < 2 * tick }' "/proc/$1/stat" 2>/dev/null
}
runs() { grep -qs '^State:.[^Z]' "/proc/$1/status"; }      # runs PID: it has not ended
catch() {       # catch CONDITION COMMAND...: starts it, its process in $pid, until the condition holds of that; anew where it ended before that was seen
    condition=$1
    shift
    for _ in 1 2 3 4 5; do
        "$@" &
        pid=$!
        while runs "$pid"; do "$condition" "$pid" && return; done
        wait "$pid"
    done
    return 1
}
finish() {
    echo "1..$n"
    exit "$bad"
}
