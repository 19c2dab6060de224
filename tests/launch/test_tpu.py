"""launch/tpu.sh against a gcloud that only pretends: argument vectors, and what happens when calls fail."""

import shlex

import pytest

PLACE = ["--project", "my project", "--zone", "z-1a"]
NAMED = ("--name", "pod", *PLACE)
SINGLE = (*NAMED, "--type", "v5p-128", "--bucket", "gs://b/dir")
KEY = ("create", "delete", "start")
COMMAND = ("unitok", "train", "--config", "a b.py:x", "--config.note=it's $HOME")
RESOURCES = ["gcloud", "compute", "tpus", "queued-resources"]


@pytest.fixture(autouse=True)
def nothing_is_packed(stubs):
    """What lies in the archive is not what is tested here."""
    (stubs.folder / "bin" / "tar").write_text("#!/bin/bash\n")
    (stubs.folder / "bin" / "tar").chmod(0o755)


def verbs(stubs) -> list[str]:
    """What was called, in short."""
    short = []
    for call in stubs.calls:
        words = " ".join(call)
        if "worker.sh" in words:
            short.append(next(v for v in ("start", "state", "stop", "log") if f"worker.sh {v}" in words))
        elif call[1] == "storage":
            short.append("copy")
        else:
            short.append("setup" if "tpu-vm" in call else call[4])
    return short


def test_one_slice_is_asked_for(stubs):
    stubs.answer("describe", "1 NOT_FOUND: no such resource")
    done = stubs.run("tpu.sh", "create", *SINGLE, "--spot", "--valid-until", "6h")
    assert done.returncode == 0, done.stderr
    assert stubs.calls == [
        [*RESOURCES, "describe", "pod", *PLACE, "--format", "value(state.state)"],
        [
            *(*RESOURCES, "create", "pod", *PLACE, "--accelerator-type", "v5p-128", "--runtime-version"),
            *("v2-alpha-tpuv5", "--node-id", "pod", "--spot", "--valid-until-duration", "6h"),
        ],
    ]


def test_several_slices_are_asked_for(stubs):
    stubs.answer("describe", "1 NOT_FOUND")
    done = stubs.run("tpu.sh", "create", *NAMED, "--type", "v6e-256", "--slices", "2", "--reserved")
    assert done.returncode == 0, done.stderr
    assert stubs.calls[1][-7:] == [
        *("--runtime-version", "v2-alpha-tpuv6e", "--node-count", "2", "--node-prefix", "pod", "--reserved"),
    ]


def test_a_startup_script_goes_along_with_its_command(stubs):
    stubs.answer("describe", "1 NOT_FOUND")
    done = stubs.run("tpu.sh", "create", *SINGLE, "--startup", "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert verbs(stubs) == ["describe", "copy", "copy", "create"]
    metadata = stubs.calls[-1][stubs.calls[-1].index("--metadata") + 1]
    assert metadata == "unitok-code=gs://b/dir/pod/code.tar.gz,unitok-env=v5p"
    assert stubs.calls[-1][-1].startswith("startup-script=") and ",unitok-command=" in stubs.calls[-1][-1]


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_dead_request_is_deleted_before_it_is_made_again(stubs, state):
    stubs.answer("describe", f"0 {state}", "0 DELETING", "1 NOT_FOUND")
    done = stubs.run("tpu.sh", "create", *SINGLE)
    assert done.returncode == 0, done.stderr
    assert verbs(stubs) == ["describe", "delete", "describe", "describe", "create"]
    assert stubs.calls[1] == [*RESOURCES, "delete", "pod", *PLACE, "--force", "--quiet", "--async"]


def test_a_living_request_is_left_alone(stubs):
    stubs.answer("describe", "0 ACTIVE")
    assert stubs.run("tpu.sh", "create", *SINGLE).returncode == 0
    assert verbs(stubs) == ["describe"]


def test_waiting(stubs):
    stubs.answer("describe", "0 WAITING_FOR_RESOURCES", "0 WAITING_FOR_RESOURCES", "0 PROVISIONING", "0 ACTIVE")
    done = stubs.run("tpu.sh", "wait", *NAMED)
    assert done.returncode == 0
    assert [line.split()[-1] for line in done.stderr.splitlines()] == [
        "WAITING_FOR_RESOURCES",
        "PROVISIONING",
        "ACTIVE",
    ]
    assert len(stubs.calls) == 4


def test_waiting_for_what_was_suspended(stubs):
    stubs.answer("describe", "0 PROVISIONING", "0 SUSPENDED")
    assert stubs.run("tpu.sh", "wait", *NAMED).returncode == 3


def test_the_command_arrives_word_for_word_on_every_slice(stubs):
    done = stubs.run("tpu.sh", "run", *SINGLE, "--slices", "2", "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    for number, call in enumerate(stubs.calls):
        assert call[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", f"pod-{number}"]
        assert "--worker=all" in call
        words = shlex.split(call[-1].removeprefix("--command="))
        assert words == ["bash", "unitok/code/launch/worker.sh", "start", "v5p", *COMMAND]
    assert len(stubs.calls) == 2


def test_small_commands(stubs):
    stubs.answer("describe", "0 ACTIVE")
    assert (
        stubs.run("tpu.sh", "logs", *NAMED, "--slices", "2", "--slice", "1", "--worker", "3", "--follow").returncode
        == 0
    )
    assert stubs.run("tpu.sh", "stop", *NAMED).returncode == 0
    assert stubs.run("tpu.sh", "status", *NAMED).stdout.startswith("pod ACTIVE")
    assert stubs.run("tpu.sh", "delete", *NAMED).returncode == 0
    assert verbs(stubs) == ["log", "stop", "describe", "state", "delete"]
    assert stubs.calls[0][5] == "pod-1" and "--worker=3" in stubs.calls[0] and stubs.calls[0][-1].endswith("log follow")


def test_a_dry_run_calls_nothing_and_shows_everything(stubs):
    done = stubs.run("tpu.sh", "supervise", *SINGLE, "--dry-run", "--delete-on-success", "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert not stubs.calls
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [line[4] for line in lines if "queued-resources" in line] == ["create", "delete"]
    assert sum(line[1] == "storage" for line in lines) == 2
    assert sum("worker.sh start" in line[-1] for line in lines) == 1


def supervise(stubs, *states: str, run: tuple[str, ...], **env: str):
    stubs.answer("worker.sh state", *run)
    stubs.answer("describe", *states)
    return stubs.run("tpu.sh", "supervise", *SINGLE, "--", *COMMAND, **env)


def test_a_success_is_not_started_again(stubs):
    done = supervise(stubs, "1 NOT_FOUND", "0 ACTIVE", run=("0 host running", "0 host running", "0 host 0"))
    assert done.returncode == 0, done.stderr
    assert verbs(stubs).count("create") == verbs(stubs).count("start") == 1
    assert "delete" not in verbs(stubs)


def test_a_failure_of_the_run_is_not_started_again(stubs):
    done = supervise(stubs, "1 NOT_FOUND", "0 ACTIVE", run=("0 host running", "0 host 2"))
    assert done.returncode == 2
    assert verbs(stubs).count("start") == 1
    assert "ended with code 2; not started again" in done.stderr


def test_suspended_in_mid_run_begins_again(stubs):
    before = ("1 NOT_FOUND", "0 ACTIVE", "0 ACTIVE", "0 SUSPENDED")
    done = supervise(
        stubs, *before, "0 SUSPENDED", "0 DELETING", "1 NOT_FOUND", "0 ACTIVE", run=("0 host running", "0 host 0")
    )
    assert done.returncode == 0, done.stderr
    assert [v for v in verbs(stubs) if v in KEY] == ["create", "start", "delete", "create", "start"]


def test_a_preempted_run_on_slices_that_are_still_there_begins_again(stubs):
    done = supervise(stubs, "0 ACTIVE", run=("0 host 75", "0 host 0"))
    assert done.returncode == 0, done.stderr
    assert [v for v in verbs(stubs) if v in KEY] == ["start", "start"]


def test_ssh_that_finds_nobody_for_a_moment_changes_nothing(stubs):
    done = supervise(stubs, "0 ACTIVE", run=("255", "255", "0 host running", "255", "0 host 0"))
    assert done.returncode == 0, done.stderr
    assert verbs(stubs).count("start") == 1


def test_slices_that_never_answer_again_are_replaced(stubs):
    states = ("1 NOT_FOUND", *["0 ACTIVE"] * 4, "0 DELETING", "1 NOT_FOUND", "1 NOT_FOUND", "0 ACTIVE")
    done = supervise(stubs, *states, run=("255", "255", "255", "0 host 0"))
    assert done.returncode == 0, done.stderr
    assert [v for v in verbs(stubs) if v in KEY] == [
        "create",
        "start",
        "delete",
        "create",
        "start",
    ]


def test_a_create_that_fails_ends_it(stubs):
    stubs.answer("queued-resources create", "1 quota exceeded")
    done = supervise(stubs, "1 NOT_FOUND", run=("0 host 0",))
    assert done.returncode == 1
    assert verbs(stubs).count("create") == 1


def test_a_setup_that_fails_ends_it(stubs):
    stubs.answer("bash -c gcloud", "1 no space")
    done = supervise(stubs, "0 ACTIVE", run=("0 host 0",))
    assert done.returncode == 1
    assert "start" not in verbs(stubs)


def test_a_stopped_run_is_not_started_again(stubs):
    done = supervise(stubs, "0 ACTIVE", run=("0 host running", "0 host stopped"))
    assert done.returncode == 0
    assert verbs(stubs).count("start") == 1


def test_gcloud_that_fails_is_not_taken_for_a_missing_request(stubs):
    stubs.answer("describe", "1 ERROR: (gcloud) token expired")
    done = stubs.run("tpu.sh", "create", *SINGLE)
    assert done.returncode == 3
    assert "token expired" in done.stderr
    assert verbs(stubs) == ["describe"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "queued resources"),
        (("create",), "--name is missing"),
        (("create", "--name", "x"), "--project is missing"),
        (("create", *NAMED), "--type is missing"),
        (("create", *NAMED, "--type", "v9-8"), "expected v4-N"),
        (("creat", *NAMED), "no command creat"),
        (("run", *SINGLE), "Give the command after --"),
        (("create", *NAMED, "--colour", "red"), "no option --colour"),
        (("setup", *NAMED), "--bucket"),
        (("create", *NAMED, "--slices", "two"), "expected a number"),
        (("create", "--name"), "a value is missing"),
    ],
)
def test_wrong_use(stubs, arguments, words):
    stubs.answer("describe", "1 NOT_FOUND")
    done = stubs.run("tpu.sh", *arguments)
    assert done.returncode == 2
    assert words in done.stdout + done.stderr
    assert "create" not in verbs(stubs)
