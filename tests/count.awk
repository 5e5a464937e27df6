# Counts single tests from meson's testlog.json files (one JSON object a line). Each TAP line counts; a program without TAP counts once; a
# program that died, timed out or kept quiet about a failure counts as one failed test more. Prints the failures, the tiers of kernels
# that ran ("# tier NAME ..." lines of the tests), and last the counts. Ends with 1 if anything failed or nothing passed.

# Value of a key among the pieces between quotes: pieces alternate outside, inside, outside ...
function value(key,    i) {
    for (i = 2; i < n; i += 2) if (piece[i] == key && piece[i + 1] ~ /^: *$/) return piece[i + 2]
    return ""
}

function count_line(line, program) {
    sub(/^[ \t]+/, "", line)
    if (line ~ /^# tier /) { sub(/^# tier /, "", line); if (!(line in tiers)) { tiers[line] = 1; tier_list = tier_list "\n  " line } }
    if (line ~ /^1\.\.0( |$)/) { seen++; skipped++; return }
    if (line !~ /^(not )?ok( |$)/) return
    seen++
    if (line ~ /# *[Ss][Kk][Ii][Pp]/) skipped++
    else if (line ~ /^not ok/ && line !~ /# *[Tt][Oo][Dd][Oo]/) { failed++; bad_here++; print "FAILED " program ": " line }
    else passed++
}

{
    gsub(/\\\\/, "\001"); gsub(/\\"/, "\002")
    n = split($0, piece, "\"")
    program = value("name"); result = value("result")
    seen = 0; bad_here = 0
    lines = split(value("stdout"), line, "\\\\n")
    for (i = 1; i <= lines; i++) count_line(line[i], program)
    fine = result == "OK" || result == "EXPECTEDFAIL" || result == "SKIP"
    if (!seen && result == "SKIP") skipped++
    else if (!seen && fine) passed++
    else if (!fine && !bad_here) { failed++; print "FAILED " program ": " result }
}

END {
    if (status && !failed) { failed++; print "FAILED meson test: it ended with " status ", and its log tells of no failure" }
    if (tier_list) print "Kernel tiers:" tier_list
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0 || passed == 0
}
