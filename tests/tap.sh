#!/bin/sh
# Runs a cmocka program and mends its TAP: cmocka calls a skipped test "not ok N # SKIP", which harnesses count as failed.
out=$("$@")
status=$?
printf '%s\n' "$out" | sed 's/^not ok \([0-9][0-9]*\) # [Ss][Kk][Ii][Pp]/ok \1 # SKIP/'
exit "$status"
