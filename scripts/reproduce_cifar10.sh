#!/usr/bin/env bash
# The papers' CIFAR-10 results at full length (study he2015-cifar): Fig. 6 and Table 6 of He et al. 2015, and the core of He et
# al. 2016, in order of what tells most, within a time box. Repeat it until nothing is left: it resumes where it stopped.
#
#   MINUTES=8 scripts/reproduce_cifar10.sh [settings]      RESEXP_DATA names the folder of the images
#   scripts/reproduce_cifar10.sh --plan [settings]         starts nothing: what is done, what is left, how long it would take
#
#   MINUTES    the time box (default: 8); no limit: MINUTES=inf
#   SEEDS      the seeds after the first one (default: 1 2; empty: none)
#   RESEXP     the program (default: resexp of this checkout)
#
# A finished run, here or in outputs/reference/he2015-cifar.jsonl, is never repeated; a partial one resumes from its
# checkpoint, where there is one. What has ended is added to that file.
# Settings are passed to every run, so that a dry run takes seconds on a CPU:
#   scripts/reproduce_cifar10.sh dataset=synthetic model.width=2 protocol.steps=2 protocol.batch_size=8
set -uo pipefail
cd "$(dirname "$0")/.."
plan=no
if [ "${1:-}" = --plan ]; then
  plan=yes
  shift
fi
settings=("$@")
minutes=${MINUTES:-8}
read -r -a seeds <<<"${SEEDS-1 2}"
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
read -r -a resexp <<<"${RESEXP:-$python -m resexp}"
deadline=$([ "$minutes" = inf ] || awk "BEGIN { printf \"%d\", $(date +%s) + 60 * $minutes }")
reference=outputs/reference/he2015-cifar.jsonl
runs=outputs/runs
for word in "$@"; do
  case $word in output_dir=*) runs=${word#output_dir=}/runs ;; esac
done
worst=0

stage() { # stage WHAT COMMAND ...: run one command with what is left of the time
  local what=$1 box=() status
  shift
  if [ "$plan" = yes ]; then
    box=(--status)
  elif [ -n "$deadline" ]; then
    local seconds=$((deadline - $(date +%s)))
    # With no time left a sweep starts nothing, but still says what is left to do.
    box=("max_minutes=$(awk "BEGIN { printf \"%.3f\", ($seconds > 1 ? $seconds : 1) / 60 }")")
  fi
  echo "== $what"
  echo "+ ${resexp[*]} $* ${settings[*]} ${box[*]}"
  "${resexp[@]}" "$@" "${settings[@]}" "${box[@]}"
  status=$?
  [ "$plan" = yes ] || keep "$runs" "$reference" # now: a later stage may be killed
  if [ "$status" -ge 130 ] || [ "$status" -eq 2 ]; then exit "$status"; fi # stopped by a signal, or a mistake
  if [ "$status" -gt "$worst" ]; then worst=$status; fi
}

nets() { # nets WHAT NETS SEED
  stage "$1, seed $3" sweep "model=$2" dataset=cifar10 "seed=$3"
}

keep() { # keep FROM TO: only runs of the study as it stands, not those of a dry run
  if [ -e "$1" ]; then
    "$python" scripts/copy_results.py he2015-cifar "$1" "$2" >/dev/null || exit 2
  fi
}

deep=resnet1202,preresnet1001

keep "$reference" "$runs"
stage "Fig. 6, seed 0" study he2015-fig6
nets "plain-110, and pre-activation beside the original" plain110,preresnet110,resnet164,preresnet164 0
for seed in "${seeds[@]}"; do nets "Fig. 1 and ResNet-110" plain20,plain56,resnet20,resnet56,resnet110 "$seed"; done
for seed in "${seeds[@]}"; do nets "the rest of Fig. 6" plain32,resnet32,plain44,resnet44 "$seed"; done
for seed in "${seeds[@]}"; do nets "pre-activation beside the original" preresnet110,resnet164,preresnet164 "$seed"; done
stage "over a thousand layers, seed 0" sweep "model=$deep" dataset=cifar10 seed=0 activation_checkpointing=true

if [ "$plan" = yes ]; then # a few steps of every net, and their speed times the steps of a whole run
  echo "== how long one seed takes on this machine"
  shallow=$(sed -n 's/.*- model=//p' conf/study/he2015-cifar.yaml | sed "s/,$deep//")
  "$python" scripts/project_study.py he2015-cifar "model=$shallow" --steps 5 "${settings[@]}" || exit
  "$python" scripts/project_study.py he2015-cifar "model=$deep" activation_checkpointing=true --steps 1 "${settings[@]}" || exit
fi
exit "$worst"
