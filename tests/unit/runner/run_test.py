#!/usr/bin/python3
"""tests/run itself, on a small tree of made-up tests: every way to fail must count as a failure."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
HEAD = "import os, sys, time\n"


def run(files, *args, **env):
    """Exit status and output of tests/run on a tree with these Python tests (name -> body)."""
    with tempfile.TemporaryDirectory() as tmp:
        tests = pathlib.Path(tmp, "tests")
        (tests / "unit").mkdir(parents=True)
        (tests / "integration").mkdir()
        shutil.copy(ROOT / "tests/run", tests / "run")
        for name, body in files.items():
            (tests / f"{name}_test.py").write_text(HEAD + body)
        done = subprocess.run(
            [sys.executable, str(tests / "run"), *args], env={**os.environ, **env}, text=True, capture_output=True
        )
        return done.returncode, done.stdout


def last(out):
    return out.splitlines()[-1]


def passes_are_counted():
    status, out = run({"unit/a": "print('1..2\\nok 1 - x\\nok 2 - y')", "integration/b": "print('ok 1 - z\\n1..1')"})
    assert (status, last(out)) == (0, "3 passed, 0 failed, 0 skipped"), out


def failures_are_counted_and_shown():
    status, out = run({"unit/a": "print('1..2\\nok 1 - x\\n# because\\nnot ok 2 - y'); sys.exit(1)"})
    assert (status, last(out)) == (1, "1 passed, 1 failed, 0 skipped"), out
    assert "failed: y" in out and "# because" in out, out


def skips_have_reasons():
    status, out = run(
        {
            "unit/a": "print('1..3\\nok 1 - x\\nok 2 - y # SKIP no such device\\n# skip: too old\\nnot ok 3 # SKIP z')",
            "unit/b": "print('# no huge pages'); sys.exit(77)",
        }
    )
    assert (status, last(out)) == (0, "1 passed, 0 failed, 3 skipped"), out
    for text in ("y: no such device", "z: too old", "unit/b_test: no huge pages"):
        assert "skipped: " + text in out, out


def a_crash_is_a_failure():
    status, out = run({"unit/a": "print('1..2\\nok 1 - x', flush=True); os.kill(os.getpid(), 11)"})
    assert (status, last(out)) == (1, "1 passed, 1 failed, 0 skipped"), out
    assert "killed by SIGSEGV" in out, out


def missing_results_are_a_failure():
    status, out = run({"unit/a": "print('1..3\\nok 1 - x')", "unit/b": "print('all fine')"})
    assert (status, last(out)) == (1, "1 passed, 2 failed, 0 skipped"), out


def a_missing_binary_is_a_failure():
    with tempfile.TemporaryDirectory() as tmp:
        tests = pathlib.Path(tmp, "tests")
        (tests / "unit").mkdir(parents=True)
        shutil.copy(ROOT / "tests/run", tests / "run")
        (tests / "unit/gone_test.c").write_text("")
        done = subprocess.run([sys.executable, str(tests / "run")], text=True, capture_output=True)
    assert (done.returncode, last(done.stdout)) == (1, "0 passed, 1 failed, 0 skipped"), done.stdout


def a_hang_is_ended_with_its_children():
    with tempfile.TemporaryDirectory() as tmp:
        pid_file = pathlib.Path(tmp, "pid")
        body = f"""
pid = os.fork()
if pid == 0:
    time.sleep(600)
open({str(pid_file)!r}, 'w').write(str(pid))
print('ok 1 - x', flush=True)
time.sleep(600)
"""
        status, out = run({"unit/a": body}, LMCA_TEST_SCALE="0.01")
        child = int(pid_file.read_text())
    assert (status, last(out)) == (1, "1 passed, 1 failed, 0 skipped"), out
    assert "still running after 1 s" in out, out
    try:
        state = pathlib.Path(f"/proc/{child}/stat").read_text().split()[2]
    except FileNotFoundError:
        state = "gone"
    assert state in ("gone", "Z"), state


def nothing_run_is_a_failure():
    assert run({})[0] == 1
    status, out = run({"unit/a": "print('ok 1')"}, "no-such-test")
    assert (status, last(out)) == (1, "0 passed, 0 failed, 0 skipped"), out


def names_pick_tests():
    status, out = run({"unit/a": "print('ok 1')", "unit/b": "print('not ok 1')"}, "unit/a")
    assert (status, last(out)) == (0, "1 passed, 0 failed, 0 skipped"), out


TESTS = [
    passes_are_counted,
    failures_are_counted_and_shown,
    skips_have_reasons,
    a_crash_is_a_failure,
    missing_results_are_a_failure,
    a_missing_binary_is_a_failure,
    a_hang_is_ended_with_its_children,
    nothing_run_is_a_failure,
    names_pick_tests,
]

print(f"1..{len(TESTS)}")
failed = 0
for number, test in enumerate(TESTS, 1):
    name = f"{number:02} {test.__name__.replace('_', ' ')}"
    try:
        test()
        print(f"ok {number} - {name}")
    except AssertionError as e:
        failed += 1
        print("\n".join("# " + line for line in str(e).splitlines()))
        print(f"not ok {number} - {name}")
sys.exit(1 if failed else 0)
