#!/usr/bin/env bash
# Cloud TPU slices as queued resources: get them, put the code there, run, watch, start again after a preemption.
#
#   launch/tpu.sh COMMAND --name NAME [options] [-- the command to run ...]
#
#   create      asks for the slices; a SUSPENDED or FAILED request of that name is deleted first
#   wait        until they are there
#   setup       puts the code and a virtual environment on every worker
#   run         starts what stands after -- on every worker, detached
#   logs        shows the log of one worker (--worker, --follow)
#   status      of the request and of the run
#   stop        tells the run to save and end (SIGTERM)
#   delete      gives everything back
#   supervise   create, wait, setup, run and watch; begins again after a preemption, and only then
#
#   --name NAME          of the queued resource and, with a number behind it, of its slices
#   --type TYPE          v6e-64, v5p-128, v5litepod-16, v4-32 (v4 and v5p count cores, two a chip)
#   --slices N           how many slices (default 1)
#   --zone Z --project P (default: $UNITOK_ZONE, $UNITOK_PROJECT)
#   --bucket gs://B/DIR  where the code goes on its way (default: $UNITOK_BUCKET)
#   --runtime R          TPU software (default: the one of the type)
#   --spot, --reserved   which capacity; --valid-until 6h: give up waiting in the queue after that
#   --startup            create: the slices set themselves up and start what stands after --; for long jobs
#   --worker N, --slice N, --follow    logs
#   --delete-on-success  supervise
#   --dry-run            print every call, make none
#
# Exit codes: 0 done, 2 wrong use, 3 the request was suspended or failed. supervise gives the run's own code; a run that
# fails is not started again, nor is one that was stopped.
# No project, zone or bucket is built in.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
POLL=${UNITOK_POLL:-30}           # seconds between two looks
SSH_TRIES=${UNITOK_SSH_TRIES:-5}  # in a row, before a slice that is ACTIVE but does not answer counts as lost
readonly PREEMPTED=75             # what `unitok train` exits with after SIGTERM
readonly LOST=255                 # ssh found nobody
readonly STOPPED=130              # launch/tpu.sh stop

die() { printf 'tpu.sh: %s\n' "$*" >&2; exit 2; }
say() { printf 'tpu.sh: %s\n' "$*" >&2; }
quoted() { local text; printf -v text '%q ' "$@"; printf '%s\n' "${text% }"; }

# Every call that changes or asks something outside goes through here.
call() {
  if [[ $dry_run == yes ]]; then quoted "$@"; else "$@"; fi
}

runtime_of() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) die "--type $1: expected v4-N, v5litepod-N, v5p-N or v6e-N (TPU7x comes through GKE alone: see launch/xpk.sh)" ;;
  esac
}

env_of() {
  case $1 in
    v5litepod-*) echo v5e ;;
    *) echo "${1%%-*}" ;;
  esac
}

place() { printf '%s\n' --project "$project" --zone "$zone"; }

nodes() {
  if ((slices == 1)); then printf '%s\n' "$name"; else
    local i
    for ((i = 0; i < slices; i++)); do printf '%s\n' "$name-$i"; done
  fi
}

node() { nodes | sed -n "$(($1 + 1))p"; }

# The state of the queued resource; NONE if there is no such thing. A failure of gcloud itself is not NONE.
state() {
  if [[ $dry_run == yes ]]; then echo NONE; return; fi
  local answer code=0
  answer=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format 'value(state.state)' 2>&1) || code=$?
  if ((code == 0)); then printf '%s\n' "${answer##*$'\n'}"
  elif [[ $answer == *NOT_FOUND* || $answer == *"not found"* ]]; then echo NONE
  else say "cannot read the state: ${answer##*$'\n'}"; echo UNKNOWN; fi
}

# on NODE WORKER COMMAND...: runs a command line on a worker (or all); each word arrives as it is.
on() {
  local node=$1 worker=$2
  shift 2
  call gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker="$worker" --quiet --command="$(quoted "$@")"
}

on_all() {
  local each
  while read -r each; do on "$each" all "$@" </dev/null || return; done < <(nodes)
}

pack() {
  [[ -n $bucket ]] || die "--bucket gs://...: where shall the code go?"
  local archive
  archive=$(mktemp)
  git -C "$HERE/.." ls-files -z --cached --others --exclude-standard |
    tar -C "$HERE/.." --null --ignore-failed-read -T - -czf "$archive"
  call gcloud storage cp "$archive" "$bucket/$name/code.tar.gz" || return
  call gcloud storage cp "$HERE/startup.sh" "$bucket/$name/startup.sh" || return
  rm -f "$archive"
}

create() {
  [[ -n $type ]] || die "--type is missing, such as v6e-64"
  runtime=${runtime:-$(runtime_of "$type")}
  case $(state) in
    NONE) ;;
    SUSPENDED | FAILED | SUSPENDING)
      say "$name: an old request still holds quota; deleting it"
      remove || return
      until_gone
      ;;
    DELETING) until_gone ;;
    UNKNOWN) return 3 ;;
    *) say "$name: there already"; return 0 ;;
  esac
  local args=("${where[@]}" --accelerator-type "$type" --runtime-version "$runtime")
  if ((slices == 1)); then args+=(--node-id "$name"); else args+=(--node-count "$slices" --node-prefix "$name"); fi
  if [[ -n $capacity ]]; then args+=("$capacity"); fi
  if [[ -n $valid_until ]]; then args+=(--valid-until-duration "$valid_until"); fi
  local script=""
  if [[ $startup == yes ]]; then
    pack || return
    script=$(mktemp)
    quoted "${command[@]}" >"$script"
    args+=(--metadata "unitok-code=$bucket/$name/code.tar.gz,unitok-env=$(env_of "$type")")
    args+=(--metadata-from-file "startup-script=$HERE/startup.sh,unitok-command=$script")
  fi
  call gcloud compute tpus queued-resources create "$name" "${args[@]}" || return
  if [[ -n $script ]]; then rm -f "$script"; fi
}

await() {
  local now before=""
  if [[ $dry_run == yes ]]; then return 0; fi
  while true; do
    now=$(state)
    if [[ $now != "$before" ]]; then say "$name: $now"; fi
    before=$now
    case $now in
      ACTIVE) return 0 ;;
      SUSPENDED | FAILED | NONE) return 3 ;;
    esac
    sleep "$POLL"
  done
}

setup() {
  pack || return
  on_all bash -c "gcloud storage cat '$bucket/$name/startup.sh' | bash -s -- '$bucket/$name/code.tar.gz'"
}

run() {
  ((${#command[@]})) || die "run what? Give the command after --"
  [[ -n $type ]] || die "--type is missing, such as v6e-64"
  on_all bash unitok/code/launch/worker.sh start "$(env_of "$type")" "${command[@]}"
}

remove() {
  call gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet --async
}

until_gone() {
  until [[ $dry_run == yes || $(state) == NONE ]]; do sleep "$POLL"; done
}

status() {
  printf '%s %s\n' "$name" "$(state)"
  local each
  while read -r each; do on "$each" all bash unitok/code/launch/worker.sh state </dev/null || true; done < <(nodes)
}

# What the run's first worker says: its exit code, running, stopped or gone. Fails with 255 if ssh found nobody.
outcome() {
  local answer
  answer=$(on "$(node 0)" 0 bash unitok/code/launch/worker.sh state </dev/null) || return
  printf '%s\n' "${answer##* }"
}

# Until the run ends. Returns its exit code, or 255 if the slices were taken away or do not answer any more.
watch_run() {
  local now lost=0 code
  if [[ $dry_run == yes ]]; then on "$(node 0)" 0 bash unitok/code/launch/worker.sh state; return 0; fi
  while true; do
    case $(state) in
      ACTIVE)
        code=0
        now=$(outcome) || code=$?
        if ((code)); then
          lost=$((lost + 1))
          say "$(node 0) does not answer ($lost of $SSH_TRIES)"
          if ((lost >= SSH_TRIES)); then
            remove || return 1
            until_gone
            return "$LOST"
          fi
        else
          lost=0
          case $now in
            "$LOST") return 1 ;; # the run's own 255
            [0-9]*) return "$now" ;;
            stopped) return "$STOPPED" ;;
            gone) return "$PREEMPTED" ;;
          esac
        fi
        ;;
      UNKNOWN) ;;
      *) return "$LOST" ;;
    esac
    sleep "$POLL"
  done
}

# One life of the slices, from asking for them to the end of the run.
attempt() {
  create || return
  await || return
  insist setup || return
  insist run || return
  watch_run
}

# insist COMMAND: again while ssh finds nobody though the slices are there. Returns 255 if they are there no more.
insist() {
  local code tries=1
  while true; do
    code=0
    "$1" || code=$?
    if ((code != LOST)); then return "$code"; fi
    if [[ $(state) != ACTIVE ]]; then return "$LOST"; fi
    if ((tries >= SSH_TRIES)); then say "$1: the slices do not answer over ssh"; return 1; fi
    tries=$((tries + 1))
    sleep "$POLL"
  done
}

supervise() {
  ((${#command[@]})) || die "supervise what? Give the command after --"
  local code
  while true; do
    code=0
    attempt || code=$?
    case $code in
      0)
        say "done"
        if [[ $delete_on_success == yes ]]; then remove; fi
        return 0
        ;;
      "$STOPPED") say "stopped; launch/tpu.sh delete gives the slices back"; return 0 ;;
      "$PREEMPTED" | "$LOST") say "preempted; beginning again" ;;
      *)
        # What fails while the slices are being taken away is no fault of the run.
        case $(state) in
          SUSPENDED | SUSPENDING) say "preempted; beginning again" ;;
          FAILED) remove; say "the request failed"; return "$code" ;;
          *) say "ended with code $code; not started again"; return "$code" ;;
        esac
        ;;
    esac
    if [[ $dry_run == yes ]]; then return 0; fi
    sleep "$POLL"
  done
}

(($#)) || { sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'; exit 2; }
verb=$1
shift
name="" type="" runtime="" capacity="" valid_until="" worker=0 slice=0 slices=1 startup=no follow=no dry_run=no
delete_on_success=no project=${UNITOK_PROJECT:-} zone=${UNITOK_ZONE:-} bucket=${UNITOK_BUCKET:-} command=()
while (($#)); do
  case $1 in
    --name | --type | --runtime | --slices | --zone | --project | --bucket | --worker | --slice | --valid-until)
      (($# > 1)) || die "$1: a value is missing"
      key=${1#--}
      printf -v "${key//-/_}" '%s' "$2"
      shift 2
      ;;
    --spot | --reserved) capacity=$1; shift ;;
    --startup) startup=yes; shift ;;
    --follow) follow=yes; shift ;;
    --dry-run) dry_run=yes; shift ;;
    --delete-on-success) delete_on_success=yes; shift ;;
    --) shift; command=("$@"); break ;;
    *) die "no option $1" ;;
  esac
done
[[ -n $name ]] || die "--name is missing"
[[ -n $project ]] || die "--project is missing (or \$UNITOK_PROJECT)"
[[ -n $zone ]] || die "--zone is missing (or \$UNITOK_ZONE)"
[[ $slices =~ ^[1-9][0-9]*$ ]] || die "--slices $slices: expected a number"
mapfile -t where < <(place)

case $verb in
  create) create ;;
  wait) await ;;
  setup) setup ;;
  run) run ;;
  logs)
    words=(bash unitok/code/launch/worker.sh log)
    if [[ $follow == yes ]]; then words+=(follow); fi
    on "$(node "$slice")" "$worker" "${words[@]}"
    ;;
  status) status ;;
  stop) on_all bash unitok/code/launch/worker.sh stop ;;
  delete) remove ;;
  supervise) supervise ;;
  *) die "no command $verb; see launch/tpu.sh without arguments" ;;
esac
