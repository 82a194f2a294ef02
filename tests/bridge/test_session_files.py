"""Sessions outlive the gateway: on disk, whole or not at all; players hear that a world is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.bridge.conftest import RigMaker, eventually
from worldbridge.bridge.gateway.players import PlayerSession
from worldbridge.bridge.gateway.session_files import SessionFiles, private_folder
from worldbridge.bridge.protocol import (
    ControllerState,
    Event,
    Frame,
    Hello,
    Input,
    OpenSession,
    PromptFrames,
    SessionInput,
    Start,
    Status,
    Welcome,
)
from worldbridge.engine_plugins.python import connect

ID = "0123456789abcdef"


def stored(folder: Path, **changes: object) -> PlayerSession:
    """Store a session and return it."""
    session = PlayerSession(ID, "resume", "night", 7, PromptFrames(1, 1, 1, b"rgb"))
    session.started, session.saved, session.frame = True, b"40", 41
    session.inputs.offer([ControllerState(9, 1.0)])
    for name, value in changes.items():
        setattr(session, name, value)
    files = SessionFiles(folder)
    files.store(session)
    files.store_frames(session)
    files.close()
    return session


def loaded(folder: Path) -> list[PlayerSession]:
    files = SessionFiles(folder)
    found = list(files.load())
    files.close()
    return found


class TestFiles:
    def test_what_is_stored_is_loaded(self, tmp_path: Path) -> None:
        before = stored(tmp_path / "new" / "folder")
        [after] = loaded(tmp_path / "new" / "folder")
        for name in ("id", "resume", "theme", "seed", "prompt_frames", "started", "saved", "frame"):
            assert getattr(after, name) == getattr(before, name)
        newest = after.inputs.offer([ControllerState(0, 2.0)])
        assert newest is not None and newest.sequence == 10, "the worker knows the numbers so far"

    def test_only_we_can_read_them(self, tmp_path: Path) -> None:
        stored(tmp_path / "private")
        assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
        for path in (tmp_path / "private").iterdir():
            assert path.stat().st_mode & 0o777 == 0o600

    def test_a_damaged_file_is_left_out_and_removed(self, tmp_path: Path) -> None:
        stored(tmp_path)
        path = tmp_path / f"{ID}.session"
        whole = path.read_bytes()
        for damaged in (b"", whole[:20], whole[:-1] + b"?", b"text"):
            path.write_bytes(damaged)
            assert loaded(tmp_path) == []
            assert not path.exists()
        (tmp_path / "not a session.session").write_bytes(whole)
        assert loaded(tmp_path) == []

    def test_an_old_session_is_forgotten(self, tmp_path: Path) -> None:
        stored(tmp_path)
        os.utime(tmp_path / f"{ID}.session", (1.0, 1.0))
        assert loaded(tmp_path) == [] and list(tmp_path.iterdir()) == []

    def test_a_removed_folder_is_made_again(self, tmp_path: Path) -> None:
        folder = tmp_path / "state"
        session = stored(folder)
        files = SessionFiles(folder)
        shutil.rmtree(folder)
        files.store(session)
        files.close()
        assert [found.id for found in loaded(folder)] == [ID]

    def test_a_folder_that_cannot_be_written_stops_nobody(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        stored(tmp_path / "file" / "state")
        assert "not kept" in caplog.text

    def test_a_folder_of_another_user_is_refused(self, tmp_path: Path) -> None:
        if os.getuid() != 0:
            pytest.skip("only root can give a folder away")
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 12345, 12345)
        with pytest.raises(PermissionError):
            private_folder(tmp_path / "theirs")


async def test_a_new_gateway_continues_the_session(make_rig: RigMaker, tmp_path: Path) -> None:
    state = tmp_path / "state"
    rig = await make_rig(state_dir=str(state))
    worker = await rig.worker()
    player = await rig.play(Start("night", 5))
    await player.send(Input((ControllerState(30, 1.0),)))
    await player.until(Frame, lambda frame: frame.header.frame > 12)
    await eventually(lambda: bool(list(state.glob("*.session"))))
    shutil.copytree(state, tmp_path / "crashed")  # as the first gateway left it
    await worker.stop()

    later = await make_rig(state_dir=str(tmp_path / "crashed"), endpoint=f"ipc://{tmp_path}/2")
    early = await later.greet(Hello("early", resume=player.welcome.resume))
    await early.until(Status, lambda status: status.state == "loading")
    worker = await later.worker()
    welcome = await early.until(Welcome)
    assert (welcome.session, welcome.started) == (player.welcome.session, True)
    assert welcome.seats.used == 1
    [opened] = worker.of(OpenSession)
    assert isinstance(opened, OpenSession) and opened.theme == "night" and opened.saved is not None
    assert (await early.until(Event)).name == "session_resumed"
    frame = await early.until(Frame)
    assert frame.header.frame >= int(opened.saved) > 0
    await early.send(Input((ControllerState(0, 2.0),)))
    await eventually(lambda: bool(worker.of(SessionInput)))
    newest = worker.of(SessionInput)[-1]
    assert isinstance(newest, SessionInput) and newest.state.sequence >= 31


async def test_a_session_whose_player_does_not_come_back_ends(
    make_rig: RigMaker, tmp_path: Path
) -> None:
    stored(tmp_path / "state")
    rig = await make_rig(state_dir=str(tmp_path / "state"), grace_s=0.5)
    await rig.worker(seats=1)
    waits = await rig.play(hello=Hello("waits", wait=True))
    assert waits.welcome.seat.state == "queued", "the seat is kept for the player who vanished"
    await waits.until(Frame)
    assert not (tmp_path / "state" / f"{ID}.session").exists()


async def test_a_world_that_cannot_be_restored_is_announced(
    make_rig: RigMaker, tmp_path: Path
) -> None:
    stored(tmp_path / "state")
    rig = await make_rig(state_dir=str(tmp_path / "state"))
    worker = await rig.worker(refuses_saved=True)
    await eventually(lambda: len(worker.of(OpenSession)) == 2)
    restored, fresh = worker.of(OpenSession)
    assert isinstance(restored, OpenSession) and restored.saved == b"40"
    assert fresh == OpenSession(ID, "night", 7, None, PromptFrames(1, 1, 1, b"rgb"))
    player = await rig.greet(Hello("late", resume="resume"))
    await player.until(Welcome)
    event = await player.until(Event, lambda event: event.name == "world_reset")
    assert "begins again" in event.detail and "another world" in event.detail
    await player.until(Frame)


async def test_a_worker_that_loses_the_world_says_so_to_all(make_rig: RigMaker) -> None:
    rig = await make_rig()
    worker = await rig.worker()
    async with connect(rig.url) as player, connect(rig.url, watch=True) as watcher:
        await player.frame()
        await watcher.frame()
        await worker.stop()
        worker = await rig.worker(refuses_saved=True)
        await eventually(
            lambda: all("world_reset" in [e.name for e in c.events] for c in (player, watcher))
        )
        await player.frame()
        await eventually(lambda: bool(player.interruptions))
        assert not player.interruptions[-1].same_world
