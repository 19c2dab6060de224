"""What runs on the machines themselves: worker.sh, startup.sh, slurm.sbatch."""

import os
import shutil
import signal
import subprocess
import tarfile
import time

import pytest
from stubs import LAUNCH, ROOT

SAVER = "trap 'sleep 0.2; echo saved; exit 75' TERM; echo begun; for i in {1..300}; do sleep 0.1; done"


def worker(home, *words: str) -> str:
    env = os.environ | {"UNITOK_HOME": str(home)}
    done = subprocess.run(
        ["bash", str(LAUNCH / "worker.sh"), *words], env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state(home) -> str:
    return worker(home, "state").split()[-1]


@pytest.mark.parametrize(("command", "code"), [("echo words: $UNITOK_COORDINATOR; exit 3", "3"), ("exit 0", "0")])
def test_how_a_run_ended(tmp_path, command, code):
    assert state(tmp_path) == "none"
    worker(tmp_path, "start", "none", "bash", "-c", command)
    wait_for(lambda: state(tmp_path) not in ("running", "none"))
    assert state(tmp_path) == code
    if code == "3":
        assert worker(tmp_path, "log") == "words: auto"


def test_flags_go_along(tmp_path):
    worker(tmp_path, "start", "v6e", "bash", "-c", "echo $LIBTPU_INIT_ARGS")
    wait_for(lambda: state(tmp_path) == "0")
    assert "--xla_tpu_scoped_vmem_limit_kib=98304" in worker(tmp_path, "log")


def test_stop_lets_the_run_save(tmp_path):
    worker(tmp_path, "start", "none", "bash", "-c", SAVER)
    wait_for(lambda: "begun" in worker(tmp_path, "log"))
    assert state(tmp_path) == "running"
    again = subprocess.run(
        ["bash", str(LAUNCH / "worker.sh"), "start", "none", "true"],
        env=os.environ | {"UNITOK_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert again.returncode == 2 and "a run is there already" in again.stderr
    worker(tmp_path, "stop")
    wait_for(lambda: state(tmp_path) != "running")
    assert state(tmp_path) == "stopped"
    assert (tmp_path / "exit").read_text() == "75\n"
    assert "saved" in worker(tmp_path, "log")


def test_a_killed_run_is_gone(tmp_path):
    worker(tmp_path, "start", "none", "bash", "-c", "exec sleep 5")
    leader = int((tmp_path / "pid").read_text())
    wait_for(lambda: os.getpgid(leader) == leader)  # in a session of its own by now
    os.killpg(leader, signal.SIGKILL)
    wait_for(lambda: state(tmp_path) != "running")
    assert state(tmp_path) == "gone"


def startup(stubs, tmp_path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """startup.sh with a gcloud that gives a small archive, and a Python whose venv has a pip that only notes."""
    archive = tmp_path / "code.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(LAUNCH, "launch")
    (stubs.folder / "bin" / "gcloud").write_text(f'#!/bin/bash\ncat "{archive}"\n')
    python = stubs.folder / "bin" / "python3.11"
    python.write_text(
        '#!/bin/bash\nif [[ "$1 $2" == "-m venv" ]]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi\n'
        'echo "$@" >>"$STUB_DIR/python"\n'
    )
    python.chmod(0o755)
    for newer in ("python3.12", "python3.13"):
        (stubs.folder / "bin" / newer).write_text("#!/bin/bash\nexit 1\n")
        (stubs.folder / "bin" / newer).chmod(0o755)
    return stubs.run("startup.sh", *arguments, UNITOK_HOME=str(tmp_path / "home"), **env)


def test_startup_over_ssh_twice(stubs, tmp_path):
    for _ in range(2):
        done = startup(stubs, tmp_path, "gs://b/code.tar.gz")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "code" / "launch" / "worker.sh").exists()
    said = (stubs.folder / "python").read_text().splitlines()
    assert sum(line.startswith("-m venv") for line in said) == 1, "the environment is made once"
    assert sum("pip install" in line and line.endswith("code[tpu]") for line in said) == 2


def test_startup_script_runs_its_command(stubs, tmp_path):
    data = tmp_path / "metadata"
    data.mkdir()
    (data / "unitok-code").write_text("gs://b/code.tar.gz")
    (data / "unitok-env").write_text("v6e")
    (data / "unitok-command").write_text(r"echo 'a  b' it\'s" + "\n")
    done = startup(stubs, tmp_path, UNITOK_METADATA=data.as_uri())
    assert done.returncode == 0, done.stderr
    log = tmp_path / "home" / "log"
    wait_for(lambda: log.exists() and log.read_text())
    assert log.read_text() == "a  b it's\n"
    assert startup(stubs, tmp_path, UNITOK_METADATA=(tmp_path / "nothing").as_uri()).returncode == 2


def sbatch(stubs, tmp_path, srun: str, *command: str, terminate: bool = False) -> int:
    path = stubs.folder / "bin" / "srun"
    path.write_text('#!/bin/bash\nprintf "%s\\n" "$@" >"$STUB_DIR/srun"\n' + srun + "\n")
    env = os.environ | {"PATH": f"{stubs.folder / 'bin'}:{os.environ['PATH']}", "STUB_DIR": str(stubs.folder)}
    env |= {"SLURM_JOB_ID": "42", "SLURM_SUBMIT_DIR": str(ROOT)}
    copy = tmp_path / "slurm_script"  # where SLURM keeps what it runs
    shutil.copy(LAUNCH / "slurm.sbatch", copy)
    job = subprocess.Popen(["bash", str(copy), *command], env=env, stdout=subprocess.PIPE, text=True)
    if terminate:
        wait_for(lambda: (stubs.folder / "srun").exists())
        time.sleep(0.2)
        job.send_signal(signal.SIGTERM)
    job.communicate(timeout=30)
    return job.returncode


def test_slurm_hands_the_command_on(stubs, tmp_path):
    assert sbatch(stubs, tmp_path, "exit 3", "unitok", "train", "--config", "a b") == 3
    assert (stubs.folder / "srun").read_text().splitlines() == [
        "--kill-on-bad-exit=1",
        "unitok",
        "train",
        "--config",
        "a b",
    ]
    assert not stubs.calls
    assert sbatch(stubs, tmp_path, "exit 0", "unitok") == 0
    assert sbatch(stubs, tmp_path, "exit 0") == 2


def test_slurm_waits_for_the_save_and_queues_again(stubs, tmp_path):
    assert sbatch(stubs, tmp_path, SAVER, "unitok", terminate=True) == 75
    assert stubs.calls == [["scontrol", "requeue", "42"]]
