"""Stand-ins for gcloud, kubectl, srun and their like: they log their arguments and answer from a script."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"

# A call whose words contain a rule's pattern takes that rule's next answer, "CODE TEXT"; its last one stays.
STUB = r"""#!/usr/bin/env bash
printf '%s\x1f' "${0##*/}" "$@" >>"$STUB_DIR/log"
printf '\x1e' >>"$STUB_DIR/log"
if [[ ${0##*/} == kubectl ]]; then cat >"$STUB_DIR/stdin"; fi
for rule in "$STUB_DIR"/rules/*; do
  [[ -e $rule ]] || continue
  if [[ "$*" == *"$(head -n 1 "$rule")"* ]]; then
    answer=$(sed -n 2p "$rule")
    if (($(wc -l <"$rule") > 2)); then sed -i 2d "$rule"; fi
    [[ -z ${answer#* } || $answer != *" "* ]] || printf '%s\n' "${answer#* }"
    exit "${answer%% *}"
  fi
done
"""


class Stubs:
    """A folder on PATH with the stubs.

    Args:
        folder: where to make it.
        names: of the programs.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]):
        self.folder = folder
        (folder / "rules").mkdir(parents=True)
        (folder / "bin").mkdir()
        for name in names:
            path = folder / "bin" / name
            path.write_text(STUB)
            path.chmod(0o755)
        self._rules = 0

    def answer(self, pattern: str, *answers: str) -> None:
        """What calls that contain `pattern` get: ``"0 text"`` or ``"1"``, one after another, the last for ever."""
        (self.folder / "rules" / f"{self._rules:02d}").write_text("\n".join([pattern, *answers]) + "\n")
        self._rules += 1

    def run(self, script: str, *arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of launch/ with the stubs before everything else on PATH."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        quick = {"UNITOK_POLL": "0", "UNITOK_SSH_TRIES": "3", "STUB_DIR": str(self.folder), "PATH": path}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("UNITOK_")}
        return subprocess.run(
            ["bash", str(LAUNCH / script), *arguments],
            env=clean | quick | env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    @property
    def calls(self) -> list[list[str]]:
        """The argument vectors so far, program first."""
        log = self.folder / "log"
        records = log.read_text().split("\x1e") if log.exists() else []
        return [record.split("\x1f")[:-1] for record in records if record]
