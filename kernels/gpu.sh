#!/usr/bin/env bash
# Everything that only a GPU can show, in under ten minutes: builds, checks, looks for races and stray accesses, times.
#   kernels/gpu.sh [FOLDER for kernels.jsonl, README.md and logs]
# The parts' limits are 590 s together. Each part says how it ended; the last line is the number of parts that failed, and the exit status.
cd "$(dirname "$0")/.." || exit 1
out=${1:-out/kernels}
mkdir -p "$out"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
failed=0

part() { # name, seconds, command…
  local name=$1 limit=$2
  shift 2
  local begin=$SECONDS
  if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then echo "$name: passed, $((SECONDS - begin)) s"
  else
    echo "$name: FAILED ($?), $((SECONDS - begin)) s"
    tail -n 15 "$out/$name.log"
    failed=$((failed + 1))
  fi
}

part build 90 "$python" -m kernels.build cuda
part check 30 "$python" -m kernels.check
part laws 100 "$python" -m pytest -q -p no:cacheprovider tests/test_kernels_{native,values,gradients}.py -k cuda
part train 40 "$python" -m pytest -q -p no:cacheprovider tests/test_train_cuda.py
if command -v compute-sanitizer >/dev/null; then
  part memcheck 60 compute-sanitizer --error-exitcode 3 "$python" -m kernels.check
  part racecheck 60 compute-sanitizer --tool racecheck --error-exitcode 3 "$python" -m kernels.check
else echo "compute-sanitizer: not on this machine"; fi
part bench 150 "$python" -m kernels.bench --out "$out/kernels.jsonl" --readme
part layer 60 "$python" -m bench.moe_layer
cp kernels/README.md "$out/"
tail -n 30 "$out/bench.log" "$out/layer.log"
echo "$failed failed"
exit "$failed"
