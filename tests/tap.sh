#!/bin/sh
# Runs a cmocka program and mends its output: cmocka calls a skipped test "not ok N # SKIP", which harnesses count as failed, and what a test
# prints besides becomes a TAP comment. In a cross build Meson names the emulator.
# shellcheck disable=SC2086  # a command and its options
out=$(${MESON_EXE_WRAPPER:-} "$@")
status=$?
printf '%s\n' "$out" | sed -e 's/^not ok \([0-9][0-9]*\) # [Ss][Kk][Ii][Pp]/ok \1 # SKIP/' -e '/^ok /b' -e '/^not ok /b' -e '/^1\.\.[0-9]/b' -e '/^#/b' -e 's/^/# /'
exit "$status"
