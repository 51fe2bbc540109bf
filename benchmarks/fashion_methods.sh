#!/usr/bin/env bash
# The runs behind docs/results.md's table of methods: each with and without augmented teachers, a tenth of
# fashion-mnist, three seeds, two runs at a time. Schedules that are counted in epochs are shortened like the run, from
# 240 to 12 epochs; mlkd has its published learning rate. Uses the teacher that fashion_mnist.sh trains. METHODS and
# AUGMENTATIONS name others than all methods, with and without TeKAP.
set -euo pipefail
export TEKAPCTL_HOME=${TEKAPCTL_HOME:-$PWD/fashion-runs}
export OMP_NUM_THREADS=1 # two runs share two cores
epochs=${EPOCHS:-12}
methods=${METHODS:-$(tekapctl methods --json | python -c 'import json, sys; print(*(m["method"] for m in json.load(sys.stdin)))')}

shared="--teacher resnet20 --student resnet8 --dataset fashion-mnist --train-fraction 0.1 --epochs $epochs --name methods"
for seed in ${SEEDS:-0 1 2}; do
  for method in $methods; do
    case $method in
      ab | ft | fsp) own="--init-epochs 2" ;;
      dkd | reviewkd) own="--set method.warmup_epochs=1" ;;
      mlkd) own="--lr 0.025" ;;
      *) own="" ;;
    esac
    for augmented in ${AUGMENTATIONS:---no-tekap --tekap}; do
      echo distill --method "$method" $augmented $own $shared --seed "$seed"
    done
  done
done | xargs -P 2 -L 1 tekapctl
