#!/usr/bin/env bash
# The same on GKE: through xpk, or with kubectl and the JobSet manifest beside this file.
#
#   launch/xpk.sh submit   --cluster C --name W --type v6e-256 [--slices N] --image I [options] -- unitok train ...
#   launch/xpk.sh manifest the same; xpk writes the manifest that it would submit to W.yaml and submits nothing
#   launch/xpk.sh apply    --name W --accelerator tpu-v6e-slice --topology 4x4 --hosts 4 --chips 4 [--slices N]
#                          --image I [--namespace NS] -- unitok train ...
#   launch/xpk.sh show     apply's manifest, on standard output
#   launch/xpk.sh logs | delete --name W [--namespace NS]
#
#   --project P --zone Z   for xpk (default: $UNITOK_PROJECT, $UNITOK_ZONE)
#   --env NAME             a file of launch/env without .sh; its variables go along
#   --restarts N           how often a preempted run may begin again (default 50)
#   --dry-run              print every call, make none
#
# Exit code 75 of a run means "preempted, saved": it is started again. Any other failure is final.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly PREEMPTED=75

die() { printf 'xpk.sh: %s\n' "$*" >&2; exit 2; }
quoted() { local text; printf -v text '%q ' "$@"; printf '%s\n' "${text% }"; }
call() { if [[ $dry_run == yes ]]; then quoted "$@"; else "$@"; fi; }
need() { local key; for key in "$@"; do [[ -n ${!key} ]] || die "--$key is missing"; done; }

# The variables that an env file sets, one NAME=value a line.
variables() {
  [[ -n $env ]] || return 0
  [[ -f $HERE/env/$env.sh ]] || die "--env $env: there is no launch/env/$env.sh"
  # shellcheck disable=SC2016
  env -i bash -c 'source "$1"; env' env "$HERE/env/$env.sh" | grep -vE '^(_|PWD|OLDPWD|SHLVL)='
}

submit() {
  need cluster name type image project zone
  ((${#command[@]})) || die "submit what? Give the command after --"
  local args=(--cluster "$cluster" --workload "$name" --project "$project" --zone "$zone" --tpu-type "$type"
    --num-slices "$slices" --docker-image "$image" --max-restarts "$restarts" --restart-on-exit-codes "$PREEMPTED"
    --env UNITOK_COORDINATOR=auto)
  local line lines
  lines=$(variables)
  while IFS= read -r line; do [[ -z $line ]] || args+=(--env "$line"); done <<<"$lines"
  call xpk workload create "${args[@]}" --command "$(quoted "${command[@]}")" "$@"
}

json() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; }

# jobset.yaml with its @WORDS@ filled in; values go in as JSON strings, which YAML reads.
show() {
  need name accelerator topology hosts chips image
  ((${#command[@]})) || die "apply what? Give the command after --"
  local text words="" line lines extra="" key
  text=$(<"$HERE/jobset.yaml")
  for line in "${command[@]}"; do words+="${words:+, }$(json "$line")"; done
  lines=$(variables)
  while IFS= read -r line; do
    [[ -n $line ]] || continue
    extra+=$'\n'"                - {name: $(json "${line%%=*}"), value: $(json "${line#*=}")}"
  done <<<"$lines"
  text=${text//@COMMAND@/"[$words]"}
  text=${text//@EXTRA_ENV@/"$extra"}
  for key in name namespace accelerator topology image; do text=${text//"@${key^^}@"/"$(json "${!key}")"}; done
  for key in slices hosts chips restarts; do text=${text//"@${key^^}@"/"${!key}"}; done
  printf '%s\n' "$text"
}

(($#)) || { sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'; exit 2; }
verb=$1
shift
# shellcheck disable=SC2034 # read by name
cluster="" name="" type="" image="" env="" accelerator="" topology="" hosts="" chips="" namespace=default slices=1
restarts=50 dry_run=no project=${UNITOK_PROJECT:-} zone=${UNITOK_ZONE:-} command=()
while (($#)); do
  case $1 in
    --cluster | --name | --type | --image | --env | --accelerator | --topology | --hosts | --chips | --namespace | \
      --slices | --restarts | --project | --zone)
      (($# > 1)) || die "$1: a value is missing"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --dry-run) dry_run=yes; shift ;;
    --) shift; command=("$@"); break ;;
    *) die "no option $1" ;;
  esac
done

case $verb in
  submit) submit ;;
  manifest) submit --dry-run --output-manifest-file "$name.yaml" ;;
  show) show ;;
  apply)
    manifest=$(show)
    if [[ $dry_run == yes ]]; then printf '%s\n' "$manifest"; else kubectl apply -f - <<<"$manifest"; fi
    ;;
  logs)
    need name
    call kubectl logs --namespace "$namespace" --selector "jobset.sigs.k8s.io/jobset-name=$name" --prefix --tail 100 -f
    ;;
  delete)
    need name
    call kubectl delete jobset "$name" --namespace "$namespace"
    ;;
  *) die "no command $verb; see launch/xpk.sh without arguments" ;;
esac
