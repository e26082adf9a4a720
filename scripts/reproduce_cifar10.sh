#!/usr/bin/env bash
# He et al. 2015, Fig. 6 and Table 6, in order of what tells most, within a time box. Repeat it until nothing is left:
# it goes on where it stopped.
#
#   MINUTES=9 scripts/reproduce_cifar10.sh [settings]      RESEXP_DATA names the folder of the images
#
#   MINUTES    the time box (default: 9); without end: MINUTES=inf
#   SEEDS      the seeds behind the first one (default: 1 2 3 4)
#   RESEXP     the program (default: resexp of this checkout)
#
# Settings are passed to every run, so that a dry run takes seconds on a CPU:
#   scripts/reproduce_cifar10.sh dataset=synthetic model.width=2 protocol.steps=2 protocol.batch_size=8
set -uo pipefail
cd "$(dirname "$0")/.."
minutes=${MINUTES:-9}
read -r -a seeds <<<"${SEEDS:-1 2 3 4}"
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
read -r -a resexp <<<"${RESEXP:-$python -m resexp}"
deadline=$([ "$minutes" = inf ] || awk "BEGIN { printf \"%d\", $(date +%s) + 60 * $minutes }")
worst=0

stage() { # stage WHAT COMMAND ...: run one command with what is left of the time
  local what=$1 box=() status
  shift
  if [ -n "$deadline" ]; then
    local seconds=$((deadline - $(date +%s)))
    # With no time left a sweep starts nothing, but still says what is left to do.
    box=("max_minutes=$(awk "BEGIN { printf \"%.3f\", ($seconds > 1 ? $seconds : 1) / 60 }")")
  fi
  echo "== $what"
  echo "+ ${resexp[*]} $* ${box[*]}"
  "${resexp[@]}" "$@" "${box[@]}"
  status=$?
  if [ "$status" -ge 130 ] || [ "$status" -eq 2 ]; then exit "$status"; fi # stopped by a signal, or a mistake
  if [ "$status" -gt "$worst" ]; then worst=$status; fi
}

stage "Fig. 6, seed 0" study he2015-fig6 "$@"
stage "plain110, which does not train (Fig. 6, caption)" sweep model=plain110 dataset=cifar10 seed=0 "$@"
for seed in "${seeds[@]}"; do
  stage "the four nets of Fig. 1 and ResNet-110, seed $seed" \
    sweep model=plain20,plain56,resnet20,resnet56,resnet110 dataset=cifar10 "seed=$seed" "$@"
done
stage "ResNet-1202" sweep model=resnet1202 dataset=cifar10 activation_checkpointing=true seed=0 "$@"
exit "$worst"
