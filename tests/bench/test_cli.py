"""The command from outside: quick, light, one line for what is wrong."""

import json
import subprocess
import sys

import pytest

TARE = [sys.executable, "-m", "bench.cli"]
HEAVY = ("numpy", "pandas", "pyarrow", "scipy", "matplotlib", "libvirt", "rich", "jinja2")


def tare(*words):
    return subprocess.run(
        [*TARE, *map(str, words)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False
    )


def test_help_names_every_command_and_imports_nothing_heavy():
    script = (
        "import sys, contextlib\n"
        "from bench.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("doctor", "run", "report", "ps", "gc"):
        assert f"\n    {command} " in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "--backend", "contaner"), "unknown backend 'contaner': did you mean container"),
        (("run", "--workload", "startupp"), "unknown workload 'startupp': did you mean startup"),
        (("run", "--blocks", "0"), "--blocks 0"),
        (("run", "--cell", "startup"), "write WORKLOAD/BACKEND"),
        (("run", "--resume", "nowhere"), "nowhere: no run"),
        (("report", "nowhere"), "nowhere: no run"),
        (("report", "a", "b", "--out", "x"), "--out names one file"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(words, says):
    done = tare(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_doctor_s_json_has_the_promised_shape():
    done = tare("doctor", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["host"]) == {"kernel", "arch", "cpu", "virtualised", "cgroup", "init", "container", "lsm"}
    process = next(row for row in told["backends"] if row["backend"] == "process")
    assert set(process) == {"backend", "available", "lane", "version", "reason", "fix", "evidence"}
    assert process["available"]
