#!/bin/sh
# Everything to learn about tekapctl on a GPU, in under 9 minutes and without a network:
#
#     benchmarks/gpu.sh [--data-dir CIFAR-100-FOLDER] [--output FOLDER]
#
# Needs Python with PyTorch for CUDA and this repository; writes benchmarks/results/gpu-CARD.md and .json.
cd "$(dirname "$0")/.." || exit 1
PYTHONPATH="src:tests${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
