#!/usr/bin/env bash
# Everything that only a GPU can answer, in stages of at most 8 minutes, about 20 in all, without a network.
#
#     scripts/check/gpu_day.sh OUT              on a machine with a CUDA device
#     scripts/check/gpu_day.sh OUT --rehearse   the same code at toy size on a CPU
#
# A stage that is done leaves OUT/STAGE.json and is not run again: after an interruption the same command goes on.
# OUT/REPORT.md says all of it. Wheels that the machine lacks are brought along: PIP_FIND_LINKS and `pip install --no-index`.
set -u
out=${1:?"usage: scripts/check/gpu_day.sh OUT [--rehearse] (OUT: a folder for the results)"}
mode=${2:-}
here=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PANBENCH_CACHE="$out/cache"
mkdir -p "$out"
# `timeout` leads a group of its own, which Ctrl-C does not reach: it is stopped here, and no further stage begins.
running=
trap '[ -z "$running" ] || kill "$running" 2>/dev/null; echo "stopped; the same command goes on"; exit 130' INT TERM
for stage in $("$python" "$here/scripts/check/gpu_day.py" list); do
    if [ -e "$out/$stage.json" ]; then
        echo "$stage: done before"
        continue
    fi
    began=$(date +%s)
    timeout 480 "$python" "$here/scripts/check/gpu_day.py" "$stage" --out "$out" $mode >"$out/$stage.log" 2>&1 &
    running=$!
    wait "$running"
    code=$?
    running=
    echo "$stage: exit $code, $(($(date +%s) - began)) s$([ $code -eq 0 ] || echo "; see $out/$stage.log")"
done
exec "$python" "$here/scripts/check/gpu_day.py" report --out "$out" $mode
