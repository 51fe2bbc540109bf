#!/usr/bin/env bash
# The runs behind docs/results.md: a tenth of fashion-mnist, seven ways of training resnet8, three seeds, two at a time.
# Needs the dataset (`tekapctl fetch fashion-mnist`, or Debian's dataset-fashion-mnist). About half an hour on 2 cores.
set -euo pipefail
export TEKAPCTL_HOME=${TEKAPCTL_HOME:-$PWD/fashion-runs}
epochs=${EPOCHS:-12}

tekapctl train-teacher --model resnet20 --dataset fashion-mnist --epochs 5 --name results

export OMP_NUM_THREADS=1 # two runs share two cores
shared="--dataset fashion-mnist --train-fraction 0.1 --epochs $epochs --name results"
pair="--teacher resnet20 --student resnet8"
for seed in 0 1 2; do
  echo train-teacher --model resnet8 $shared --seed $seed
  echo distill $pair --method kd --no-tekap $shared --seed $seed
  echo distill $pair --method kd --no-tekap --alpha 3.06 $shared --seed $seed
  echo distill $pair --method kd $shared --seed $seed
  echo distill $pair --method crd --no-tekap $shared --seed $seed
  echo distill $pair --method crd $shared --seed $seed
  echo distill $pair --method crd --alpha 1 --beta 0.8 $shared --seed $seed
done | xargs -P 2 -L 1 tekapctl
python "$(dirname "$0")/fashion_mnist_table.py"
