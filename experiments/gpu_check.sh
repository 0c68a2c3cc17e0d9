#!/usr/bin/env bash
# Everything to know from one run on a CUDA device, in under six minutes on an H100, without installing or downloading anything:
#   bash experiments/gpu_check.sh OUT             results as JSON and logs, in OUT, as they come
#   bash experiments/gpu_check.sh OUT --emulate   a dry run on the CPU: the same steps on small inputs, which measures nothing
# Needs torch with CUDA, pytorch-lightning, torchmetrics, numba, cuda-core, torchvision, scikit-learn, pytest and g++ or none.
# Exit code 0: every step has passed. Cut off at any moment, it leaves what it has found so far.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?Give the folder for the results, for example: bash experiments/gpu_check.sh gpu_results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
emulate=${2:-}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} GOMP_SPINCOUNT=20000 MPLBACKEND=Agg
marker=gpu
if [ "$emulate" = --emulate ]; then
    # On the CPU those tests are skipped: it is tried that they are found and begin.
    export PUZZLEMIX_EMULATE=1
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "There is no CUDA device: bash experiments/gpu_check.sh OUT --emulate tries the steps on the CPU."
    exit 1
fi
failed=0
step() {  # step NAME SECONDS COMMAND...
    local name=$1 limit=$2 start=$SECONDS code
    shift 2
    timeout --signal=INT --kill-after=20 "$limit" "$@" >"$out/$name.log" 2>&1
    code=$?
    # pytest's 5: no test was run, as where all were skipped on the CPU.
    [ "$code" = 5 ] && [ -n "$emulate" ] && code=0
    printf '{"step": "%s", "exit_code": %d, "seconds": %d}\n' "$name" "$code" $((SECONDS - start)) | tee -a "$out/steps.jsonl"
    [ "$code" = 0 ] || { failed=1; tail -n 15 "$out/$name.log"; }
}
tests=(-p no:cacheprovider -q -m "$marker" --result-lines)
# First what is least often true: whether the kernels are right at all.
step exact 90 "$python" -m pytest "${tests[@]}" "$out/exact.jsonl" tests/solvers
step times_solver 60 "$python" -m experiments.gpu_check solver "$out/times_solver.json" $emulate
step training 120 "$python" -m pytest "${tests[@]}" "$out/training.jsonl" tests/gpu
step times_steps 120 "$python" -m experiments.gpu_check steps "$out/times_steps.json" $emulate
if command -v compute-sanitizer >/dev/null && [ -z "$emulate" ]; then
    for tool in memcheck racecheck synccheck; do
        step "sanitizer_$tool" 40 compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m experiments.gpu_check once
    done
fi
"$python" -m experiments.gpu_check summary "$out" | tee "$out/summary.txt"
exit $failed
