"""An interrupted run leaves nothing under a final name, and nothing at all where it could clean up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kodim.cli import main, signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")

# A run that stands still where the test wants to hit it: while encoding, or with data written but not renamed
STALLED = """
import os, sys, time
import kodim.classical
from kodim.cli import main

def stall(*args, **kwargs):
    print("here", flush=True)
    time.sleep(60)

if sys.argv[1] == "encoding":
    kodim.classical.Jpeg.encode = stall
else:
    os.fsync = stall
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path


def stop_while(stage: str, number: int, argv: list[str]) -> tuple[int, str, list[str]]:
    """Start a run, send it the signal at that stage; its exit code, its stderr, the files there by then."""
    process = subprocess.Popen(
        [sys.executable, "-c", STALLED, stage, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "here\n"
        folder = Path(argv[-1]).parent
        before = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    return process.returncode, err, before


@pytest.mark.parametrize("stage", ["encoding", "writing"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(photo: Path, tmp_path: Path, stage: str, number: int) -> None:
    out = tmp_path / "out"
    out.mkdir()
    argv = ["compress", str(photo), "--codec", "jpeg", "-o", str(out / "photo.jpg")]
    code, err, before = stop_while(stage, number, argv)
    assert code == 128 + number
    assert err.count("\n") == 1
    assert err.startswith("kodim: ")
    assert len(before) == (stage == "writing")  # the hidden file was there to be removed
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("stage", ["encoding", "writing"])
def test_a_kill_leaves_nothing_under_the_final_name(photo: Path, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    argv = ["compress", str(photo), "--codec", "jpeg", "-o", str(out / "photo.jpg")]
    code, _, _ = stop_while(stage, signal.SIGKILL, argv)
    assert code == -signal.SIGKILL
    assert not (out / "photo.jpg").exists()
    assert all(path.name.startswith(".") for path in out.iterdir())
    # what a killed run did leave is not taken for a picture later
    assert main(["compress", str(out), "--codec", "jpeg"]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_was_there_before_survives(photo: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "photo.jpg"
    out.write_bytes(b"an older file")
    stop_while("writing", number, ["compress", str(photo), "--codec", "jpeg", "-o", str(out)])
    assert out.read_bytes() == b"an older file"


def test_finished_files_of_a_batch_stay(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kodim.classical

    second = photo.with_name("second.png")
    second.write_bytes(photo.read_bytes())
    real = kodim.classical.Jpeg.encode
    calls = []

    def encode(*args: object, **kwargs: object) -> bytes:
        calls.append(args)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(kodim.classical.Jpeg, "encode", encode)
    out = tmp_path / "out"
    assert main(["compress", str(photo), str(second), "--codec", "jpeg", "-o", str(out)]) == 130
    assert [path.name for path in out.iterdir()] == ["photo.jpg"]


def test_a_signal_lost_in_a_callback_still_stops_the_rename(tmp_path: Path) -> None:
    from kodim.cli.output import write_file

    with signals.handled():
        with contextlib.suppress(signals.Stopped):  # as a library does that catches everything
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(signals.Stopped):
            write_file(tmp_path / "photo.jpg", b"data")
    assert list(tmp_path.iterdir()) == []


def test_handlers_are_restored_and_ignored_signals_stay_ignored() -> None:
    before = signal.getsignal(signal.SIGINT)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled():
            assert signal.getsignal(signal.SIGINT) != before
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as under nohup
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGHUP, hangup)
