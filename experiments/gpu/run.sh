#!/usr/bin/env bash
# Run one of two prepared programs of at most five minutes, on a GPU machine without network:
#
#     experiments/gpu/run.sh throughput PARTS OUTPUT TOKENIZER
#     experiments/gpu/run.sh tests PARTS OUTPUT
#
# PARTS is the folder from wheels.py; OUTPUT is a folder for the results, which are written after each step. TOKENIZER is a
# folder with RoBERTa's config.json and tokenizer. GPU_ENVIRONMENT names the virtual environment (default: /tmp/imdbcls),
# which setup.sh creates if it is missing.
set -euo pipefail
program=$1
mkdir -p "$3"
parts=$(realpath "$2")
output=$(realpath "$3")
environment=${GPU_ENVIRONMENT:-/tmp/imdbcls}
tokenizer=$(realpath "${4:-.}")
cd "$(dirname "$0")/../.."
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=true

nvidia-smi >"$output/nvidia-smi.txt" 2>&1 || true
[ -x "$environment/bin/python" ] || experiments/gpu/setup.sh "$parts" "$environment" 2>&1 | tee "$output/setup.log"
python=$environment/bin/python

case $program in
throughput)
    "$python" experiments/gpu/throughput.py --tokenizer "$tokenizer" --budget 260 --output "$output/gpu-throughput.json" 2>&1 |
        tee "$output/throughput.log"
    ;;
tests)
    # A failed test does not prevent the second part.
    timeout 150 "$python" -m pytest -n 0 -v --durations=10 tests/kernels/test_cuda.py 2>&1 | tee "$output/tests.log" || true
    "$python" experiments/gpu/side_by_side.py --budget 120 --output "$output/gpu-side-by-side.json" 2>&1 |
        tee "$output/side-by-side.log"
    ;;
*)
    echo "Unknown program: $program" >&2
    exit 2
    ;;
esac
