#!/usr/bin/env bash
# Kills training runs at random moments, as often as asked (default 1,000 times, about an hour on two cores).
set -euo pipefail
cd "$(dirname "$0")/../.."
TEKAPCTL_KILLS=${1:-1000} python -m pytest -s tests/reliability/test_kills.py -k "run_survives"
