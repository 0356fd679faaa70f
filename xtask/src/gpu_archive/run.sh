#!/bin/sh
# Runs the GPU tests of this archive. Needs an NVIDIA driver and a POSIX shell, nothing else.
#
# usage: run.sh [--sanitize TOOL] [TEST ARGUMENTS]
#   --sanitize TOOL   run under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#
# Exits 0 only if tests ran on a GPU and all passed. No GPU is a failure.
set -u

here=$(cd "$(dirname "$0")" && pwd) || exit 1
export PHI3_LOADER_BIN="$here/phi3-loader"
export PHI3_LOADER_TESTDATA="$here/testdata"
# One test at a time: some tests check the GPU's free memory, which other tests would change.
export RUST_TEST_THREADS=1

sanitizer=
if [ "${1-}" = --sanitize ]; then
    sanitizer=${2:?"--sanitize needs the name of a tool"}
    shift 2
    command -v compute-sanitizer >/dev/null || {
        echo "error: compute-sanitizer is not on PATH" >&2
        exit 1
    }
fi

devices=$("$PHI3_LOADER_BIN" devices --json) || {
    echo "error: phi3-loader devices failed" >&2
    exit 1
}
case $(printf %s "$devices" | tr -d '[:space:]') in
*'"kind":"cuda"'*) ;;
*)
    echo "error: no GPU here; the loader finds: $devices" >&2
    exit 1
    ;;
esac

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
passed=0
failed=0
for test in "$here"/tests/*; do
    # Skip five programs under a sanitizer. Endurance and faults would take hours and give it nothing to
    # find. In busy, a stream of the GPU stays blocked, and a sanitizer may wait for the whole GPU. In resident, a
    # kernel writes where it must not. In program, a process must not have the driver, which the sanitizer loads.
    case ${sanitizer:+sanitized}${test##*/} in
    sanitized*_endurance | sanitized*_faults | sanitized*_busy | sanitized*_resident | sanitized*_program) continue ;;
    esac
    echo "== ${test##*/}"
    # A pipe returns the status of its last command, so write the test's own status to the log.
    {
        # Do not report API errors: tests provoke them, and the loader checks every call itself.
        if [ -n "$sanitizer" ]; then
            compute-sanitizer --tool "$sanitizer" --report-api-errors no --error-exitcode 1 "$test" "$@"
        else
            "$test" "$@"
        fi
        echo "exit status $?"
    } 2>&1 | tee "$log"

    result=$(grep '^test result: ' "$log" | tail -n 1)
    ran=$(printf %s "$result" | sed -n 's/.* \([0-9]*\) passed;.*/\1/p')
    broke=$(printf %s "$result" | sed -n 's/.* \([0-9]*\) failed;.*/\1/p')
    passed=$((passed + ${ran:-0}))
    failed=$((failed + ${broke:-0}))
    # A program can fail without a failed test: it crashed, or the sanitizer found something.
    if [ "$(tail -n 1 "$log")" != "exit status 0" ] && [ "${broke:-0}" -eq 0 ]; then
        echo "error: ${test##*/} failed outside its tests" >&2
        failed=$((failed + 1))
    fi
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
