"""launch/xpk.sh: xpk's argument vector, and the JobSet that kubectl gets."""

import json
import shlex

import pytest

COMMAND = ("unitok", "train", "--config", "a b.py", '--config.note="it\'s\\n"')
SUBMIT = ("--cluster", "c", "--name", "w", "--type", "v6e-256", "--slices", "2", "--image", "i:1")
PLACE = ("--project", "p", "--zone", "z")
APPLY = ("--name", "w", "--accelerator", "tpu-v6e-slice", "--topology", "4x4", "--hosts", "4", "--chips", "4")


def test_submit(stubs):
    done = stubs.run("xpk.sh", "submit", *SUBMIT, *PLACE, "--env", "v6e", "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    (call,) = stubs.calls
    flags = ["--cluster", "c", "--workload", "w", *PLACE, "--tpu-type", "v6e-256", "--num-slices", "2"]
    flags += ["--docker-image", "i:1", "--max-restarts", "50", "--restart-on-exit-codes", "75"]
    assert call[: 4 + len(flags) - 1] == ["xpk", "workload", "create", *flags]
    environment = {call[i + 1] for i, word in enumerate(call) if word == "--env"}
    assert "UNITOK_COORDINATOR=auto" in environment
    (libtpu,) = (value for value in environment if value.startswith("LIBTPU_INIT_ARGS="))
    assert "--xla_tpu_scoped_vmem_limit_kib=98304" in libtpu
    assert len(environment) == 2, "nothing else of the shell's environment goes along"
    assert shlex.split(call[call.index("--command") + 1]) == list(COMMAND)


def test_manifest_asks_xpk_to_submit_nothing(stubs):
    assert stubs.run("xpk.sh", "manifest", *SUBMIT, *PLACE, "--", *COMMAND).returncode == 0
    assert stubs.calls[0][-3:] == ["--dry-run", "--output-manifest-file", "w.yaml"]


def test_apply_fills_the_jobset_in(stubs):
    yaml = pytest.importorskip("yaml")
    done = stubs.run("xpk.sh", "apply", *APPLY, "--slices", "3", "--image", "i&1", "--env", "v6e", "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert stubs.calls == [["kubectl", "apply", "-f", "-"]]
    jobset = yaml.safe_load((stubs.folder / "stdin").read_text())
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert (group["replicas"], job["parallelism"], job["completions"]) == (3, 4, 4)
    assert jobset["metadata"]["name"] == "w" and jobset["metadata"]["namespace"] == "default"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert container["command"] == list(COMMAND)
    assert container["image"] == "i&1"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert {entry["name"] for entry in container["env"]} == {"UNITOK_COORDINATOR", "LIBTPU_INIT_ARGS"}
    disrupted, ended = job["podFailurePolicy"]["rules"]  # the first that fits counts
    assert disrupted == {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert ended["action"] == "FailJob", "which the JobSet does not start again"
    assert ended["onExitCodes"] == {"containerName": container["name"], "operator": "NotIn", "values": [75]}


def test_kubectl_that_fails_is_told(stubs):
    stubs.answer("apply", "1 forbidden")
    assert stubs.run("xpk.sh", "apply", *APPLY, "--image", "i", "--", "unitok").returncode == 1


def test_logs_and_delete(stubs):
    assert stubs.run("xpk.sh", "logs", "--name", "w").returncode == 0
    assert stubs.run("xpk.sh", "delete", "--name", "w", "--namespace", "n").returncode == 0
    assert "jobset.sigs.k8s.io/jobset-name=w" in stubs.calls[0]
    assert stubs.calls[1] == ["kubectl", "delete", "jobset", "w", "--namespace", "n"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", *SUBMIT), "--project is missing"),
        (("submit", *SUBMIT, *PLACE), "after --"),
        (("apply", "--name", "w"), "--accelerator is missing"),
        (("launch",), "no command launch"),
        (("submit", "--speed", "9"), "no option --speed"),
        (("show", *APPLY, "--image", "i", "--env", "v9", "--", "x"), "there is no launch/env/v9.sh"),
    ],
)
def test_wrong_use(stubs, arguments, words):
    done = stubs.run("xpk.sh", *arguments)
    assert words in done.stderr
    assert done.returncode == 2
    assert not stubs.calls


def test_a_dry_run_calls_nothing(stubs):
    done = stubs.run("xpk.sh", "submit", *SUBMIT, *PLACE, "--dry-run", "--", *COMMAND)
    words = shlex.split(done.stdout)
    assert json.dumps(shlex.split(words[words.index("--command") + 1])) == json.dumps(list(COMMAND))
    assert not stubs.calls
