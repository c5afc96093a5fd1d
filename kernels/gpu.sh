#!/usr/bin/env bash
# Everything that only a GPU can show, in under ten minutes: builds, checks, looks for races and stray accesses, times.
#   kernels/gpu.sh [FOLDER for gpu.log, kernels.jsonl and README.md]
# The parts' limits are 590 s together. Each part says how it ended; the last line is the number of parts that failed, and the exit
# status. A tool that is missing is a part that failed.
cd "$(dirname "$0")/.." || exit 1
out=${1:-out/kernels}
mkdir -p "$out"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
log=$out/gpu.log  # of all parts: a machine that is lent may give few files back
: >"$log"
failed=0

part() { # name, seconds, command…
  local name=$1 limit=$2
  shift 2
  local begin=$SECONDS
  echo "== $name" >>"$log"
  if timeout "$limit" "$@" >>"$log" 2>&1; then echo "$name: passed, $((SECONDS - begin)) s"
  else
    echo "$name: FAILED ($?), $((SECONDS - begin)) s"
    sed -n "/^== $name$/,\$p" "$log" | tail -n 15
    failed=$((failed + 1))
  fi
}

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
part build 70 "$python" -m kernels.build cuda
part check 30 "$python" -m kernels.check
part laws 90 "$python" -m pytest -q -p no:cacheprovider tests/test_kernels_{native,values,gradients}.py -k cuda
part peers 50 env -u TRITON_INTERPRET "$python" -m pytest -q -p no:cacheprovider tests/test_kernels_bench.py
part train 40 "$python" -m pytest -q -p no:cacheprovider tests/test_train_cuda.py
# One allocation a tensor: in torch's cache a stray access falls into the next tensor, and is none.
part memcheck 50 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --error-exitcode 3 "$python" -m kernels.check
part racecheck 50 "$sanitizer" --tool racecheck --error-exitcode 3 "$python" -m kernels.check
part bench 150 "$python" -m kernels.bench --out "$out/kernels.jsonl" --readme
part layer 60 "$python" -m bench.moe_layer
cp kernels/README.md "$out/"
sed -n '/^== bench$/,$p' "$log" | grep -v '^{' | tail -n 60
echo "$failed failed"
exit "$failed"
