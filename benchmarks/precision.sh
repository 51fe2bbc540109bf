#!/usr/bin/env bash
# The runs behind docs/speed.md's table of accuracies: a tenth of fashion-mnist, TeKAP at the logit level and at both,
# in float32, in bfloat16, and in bfloat16 with the teacher's knowledge cached; three seeds, two runs at a time.
set -euo pipefail
export TEKAPCTL_HOME=${TEKAPCTL_HOME:-$PWD/fashion-runs}
epochs=${EPOCHS:-12}

tekapctl runs list | grep -q results-teacher-resnet20 ||
  tekapctl train-teacher --model resnet20 --dataset fashion-mnist --epochs 5 --name results

export OMP_NUM_THREADS=1 # two runs share two cores
shared="--teacher resnet20 --student resnet8 --dataset fashion-mnist --train-fraction 0.1 --epochs $epochs"
for seed in 0 1 2; do
  for level in "logit --method kd" "both --method crd --alpha 1 --beta 0.8 --set method.negatives=1024"; do
    read -r name settings <<<"$level"
    echo distill $shared $settings --seed $seed --name $name-float32 --precision float32
    echo distill $shared $settings --seed $seed --name $name-bfloat16 --precision bfloat16
    echo distill $shared $settings --seed $seed --name $name-cached --precision bfloat16 --cache-teacher
  done
done | xargs -P 2 -L 1 tekapctl

# Three seeds left a question at both levels; five more answer it.
for seed in 3 4 5 6 7; do
  for precision in float32 bfloat16; do
    echo distill $shared --method crd --alpha 1 --beta 0.8 --set method.negatives=1024 --seed $seed \
      --name both-$precision --precision $precision
  done
done | xargs -P 2 -L 1 tekapctl
python "$(dirname "$0")/precision_table.py"
