#!/usr/bin/env bash
# Checks and times the mixing on a CUDA device, without installing or downloading anything. Each step has a limit, six minutes in all:
#   bash experiments/gpu_check.sh OUT             results as JSON and logs, in OUT, as they come
#   bash experiments/gpu_check.sh OUT --emulate   a dry run on the CPU: the same steps on small inputs, which measures nothing
# Needs torch with CUDA, pytorch-lightning, torchmetrics, numba, cuda-core, torchvision, scikit-learn, pytest and hypothesis; --emulate needs g++ too.
# Exit code 0: every step has passed, and every criterion of the summary is met. Cut off at any moment, it leaves what it has found so far.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?Give the folder for the results, for example: bash experiments/gpu_check.sh gpu_results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
emulate=${2:-}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} GOMP_SPINCOUNT=20000 MPLBACKEND=Agg PYTHONUNBUFFERED=1
marker=gpu
if [ "$emulate" = --emulate ]; then
    # The tests of training run on the CPU then; those of the kernels are in the project's tests, and skipped here.
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
step exact 70 "$python" -m pytest "${tests[@]}" "$out/exact.jsonl" tests/solvers
step times_solver 45 "$python" -m experiments.gpu_check solver "$out/times_solver.json" $emulate
step training 90 "$python" -m pytest "${tests[@]}" "$out/training.jsonl" tests/gpu
step times_steps 80 "$python" -m experiments.gpu_check steps "$out/times_steps.json" $emulate
if command -v compute-sanitizer >/dev/null && [ -z "$emulate" ]; then
    for tool in memcheck racecheck synccheck; do
        step "sanitizer_$tool" 25 compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m experiments.gpu_check once "$out/once_$tool.json"
    done
fi
"$python" -m experiments.gpu_check summary "$out" | tee "$out/summary.txt" || failed=1
exit $failed
