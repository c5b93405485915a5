#!/usr/bin/env bash
# What only a GPU can answer, the dearest question first, in calls of a limited time, without a network.
#
#     scripts/check/gpu_day.sh OUT [--wheels DIR] [--seconds N]    on a machine with a CUDA device
#     scripts/check/gpu_day.sh OUT --rehearse                      the same code at toy size on a CPU
#
# One call runs the stages that are left and fit into its seconds (540 if not said: a command may take 10 minutes there).
# The same command goes on, also in the middle of a stage: each row is stored when it is measured. OUT/REPORT.md says all,
# OUT.tar.gz holds it in one file; where OUT is not there and OUT.tar.gz is, it is unpacked first.
# --wheels DIR: what scripts/make/gpu_wheels.py made; it is installed into OUT/site, beside what the machine has.
set -u
usage="usage: scripts/check/gpu_day.sh OUT [--wheels DIR] [--seconds N] [--rehearse] (OUT: a folder for the results)"
out=${1:?"$usage"}
shift
wheels= limit=540 mode=
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=${2:?"$usage"}; shift 2 ;;
        --seconds) limit=${2:?"$usage"}; shift 2 ;;
        --rehearse) mode=--rehearse; shift ;;
        *) echo "$usage" >&2; exit 2 ;;
    esac
done
here=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$(command -v python3 || command -v python)}
[ -n "$python" ] || { echo "Neither python3 nor python is here." >&2; exit 2; }
if [ ! -d "$out" ] && [ -e "$out.tar.gz" ]; then
    tar -xzf "$out.tar.gz" -C "$(dirname "$out")" || exit 2
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH="$here:$out/site${PYTHONPATH:+:$PYTHONPATH}" PANBENCH_CACHE="$out/cache" PYTHONUNBUFFERED=1
if [ -n "$wheels" ]; then
    # Other wheels than last time: what was lacking was brought.
    if [ "$(cat "$out/site.wheels" 2>/dev/null)" != "$(cd "$wheels" && ls -- *.whl)" ]; then
        rm -rf "$out/site"
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
            --target "$out/site" "$wheels"/*.whl || { echo "The wheels of $wheels cannot be installed." >&2; exit 2; }
        (cd "$wheels" && ls -- *.whl) >"$out/site.wheels"
    fi
    [ -e "$here/panbench/panoptic/_idmap.so" ] || cp "$wheels/_idmap.so" "$here/panbench/panoptic/" 2>/dev/null
fi
"$python" "$here/scripts/check/gpu_needs.py" --out "$out" || { echo "The day cannot begin without them." >&2; exit 2; }

# `timeout` leads a group of its own, which Ctrl-C does not reach: it is stopped here, and no further stage begins.
running=
# It has ended when the day says so: else it could still write the file by which the next call takes it for done. Asked is the
# whole group, as `timeout` itself ends without its stage if it is asked in the moment in which it starts that.
stop_stage() {
    local waits=0
    kill -- "$running" "-$running" 2>/dev/null
    wait "$running"
    while kill -0 -- "-$running" 2>/dev/null; do
        [ $((waits += 1)) -lt 200 ] || kill -KILL -- "-$running"
        sleep 0.1
    done
}
trap '[ -z "$running" ] || stop_stage; echo "stopped; the same command goes on"; exit 130' INT TERM
run_stage() {  # NAME ESTIMATE: runs a stage if it fits into what is left of the call
    local left=$((limit - SECONDS)) began=$SECONDS code
    if [ "$2" -gt "$left" ]; then
        echo "$1: left for the next call (about $2 s, and $((left > 0 ? left : 0)) s are left)"
        return 1
    fi
    timeout --kill-after=20 "$left" "$python" "$here/scripts/check/gpu_day.py" "$1" --out "$out" $mode >"$out/$1.log" 2>&1 &
    running=$!
    wait "$running"
    code=$?
    running=
    echo "$1: exit $code, $((SECONDS - began)) s, estimated $2 s$([ $code -eq 0 ] || echo "; see $out/$1.log")"
}
for stage in "$out"/*.json; do
    name=$(basename "$stage" .json)
    case $name in *.rows | preflight | vs-* | '*') ;; *) echo "$name: done before" ;; esac
done
[ -e "$out/probe.json" ] || run_stage probe 0
while read -r name seconds; do
    [ "$name" = probe ] || run_stage "$name" "$seconds"
done < <("$python" "$here/scripts/check/gpu_day.py" plan --out "$out" $mode)
exec "$python" "$here/scripts/check/gpu_day.py" report --out "$out" $mode
