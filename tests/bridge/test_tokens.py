"""Role tokens: who may play or watch, until when, and how a wrong one is refused."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from tests.bridge.conftest import RigMaker
from tests.bridge.test_bad_input import WAYS, by_websocket
from worldbridge.bridge import tokens as tokens_module
from worldbridge.bridge.protocol import BridgeError, Error, Frame, Hello, RequestControl, Welcome
from worldbridge.bridge.tokens import MAX_WRONG, OPEN, Authenticator, issue, seconds_of
from worldbridge.cli import app
from worldbridge.errors import ConfigError

SECRET = "the secret"


def refusal(token: str | None, role: str = "player", now: float = 0.0) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        Authenticator(SECRET, {}).authenticate(token, role, now)
    error = caught.value
    assert error.code == "unauthorized" and error.path == "hello.token"
    assert error.expected and error.got and error.remedy
    return error


class TestAuthenticator:
    def test_the_secret_itself_grants_all(self) -> None:
        assert Authenticator(SECRET, {}).authenticate(SECRET, "engine", 0.0) is OPEN
        assert Authenticator(None, {}).authenticate(None, "player", 0.0) is OPEN

    @pytest.mark.parametrize(
        ("of", "may", "may_not"),
        [
            ("spectator", ["spectator"], ["player", "engine"]),
            ("player", ["player", "spectator"], ["engine"]),
            ("engine", ["engine", "player", "spectator"], []),
        ],
    )
    def test_a_token_is_for_its_role(self, of: str, may: list[str], may_not: list[str]) -> None:
        token = issue(SECRET, of, 100.0)
        assert len(token) <= 256
        for role in may:
            assert Authenticator(SECRET, {}).authenticate(token, role, 0.0).expires_s == 100.0
        for role in may_not:
            error = refusal(token, role)
            assert error.message == "this token is for another role" and error.got == role

    def test_an_expired_token_is_refused(self) -> None:
        assert "expired 20 s ago" in refusal(issue(SECRET, "player", 100.0), now=120.0).got

    def test_what_somebody_changed_or_made_up_is_refused(self) -> None:
        token = issue(SECRET, "spectator", 100.0)
        head, payload, mac = token.split(".")
        forged = issue(SECRET, "player", 1e9).split(".")[1]
        for wrong in (
            issue("another secret", "player", 100.0),
            f"{head}.{forged}.{mac}",
            f"{head}.{payload}.",
            f"{head}.{payload}.{mac[:-1]}",
            f"{head}.{payload}.{mac}=",
            f"{head}.{payload}.{mac}\u00e9",
            f"{head}..{mac}",
            "role..",
            "role.e30.e30",
        ):
            assert "signature" in refusal(wrong).got
        for wrong in (None, "", "the secre", "x.y", payload):
            assert refusal(wrong).message == "this server requires a token"

    def test_any_changed_character_is_found(self) -> None:
        token = issue(SECRET, "player", 100.0)
        for at in range(len("role."), len(token)):
            refusal(token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :])

    def test_a_one_time_token_is_used_once(self) -> None:
        tokens = Authenticator(SECRET, {})
        grant = tokens.authenticate(issue(SECRET, "player", 100.0, once=True), "player", 0.0)
        tokens.check_unused(grant, "")
        assert tokens.use(grant, "session 1", 0.0)
        tokens.check_unused(grant, "session 1")  # its own player may resume
        for session in ("", "session 2"):
            with pytest.raises(BridgeError) as caught:
                tokens.check_unused(grant, session)
            assert caught.value.message == "this token was used already"
        later = Authenticator(SECRET, tokens.used)  # after a restart of the gateway
        with pytest.raises(BridgeError):
            later.check_unused(grant, "")
        other = later.authenticate(issue(SECRET, "player", 999.0, once=True), "player", 200.0)
        later.use(other, "", 200.0)
        assert list(later.used) == [other.id], "an expired one is forgotten: it is refused anyway"

    def test_any_other_may_come_again(self) -> None:
        tokens = Authenticator(SECRET, {})
        grant = tokens.authenticate(issue(SECRET, "player", 100.0), "player", 0.0)
        assert not tokens.use(grant, "s", 0.0)
        tokens.check_unused(grant, "")


def test_durations() -> None:
    assert [seconds_of(text) for text in ("90s", "30m", "2h", "7d")] == [90, 1800, 7200, 604_800]
    for wrong in ("", "2", "h", "2 h", "-1h", "0s", "1.5h", "9999999d"):
        with pytest.raises(ConfigError):
            seconds_of(wrong)


def test_who_tries_many_tokens_has_to_wait() -> None:
    tokens = Authenticator(SECRET, {})

    def attempt(token: str | None, now: float, address: str = "192.0.2.1") -> str:
        try:
            tokens.authenticate(token, "player", now, address)
        except BridgeError as error:
            assert error.code == "unauthorized" and error.remedy
            return error.message
        return "welcome"

    for number in range(MAX_WRONG):
        assert "requires a token" in attempt(f"wrong {number}", 0.0)
    for token in ("one more", SECRET, "role.forged.token"):
        assert "too many wrong tokens" in attempt(token, 0.1)
    valid = issue(SECRET, "player", 100.0)
    assert attempt(valid, 0.1) == "welcome", "it is no attempt"
    assert "requires a token" in attempt(None, 0.1), "it is no attempt either"
    assert attempt(SECRET, 0.1, "192.0.2.2") == "welcome"
    assert attempt(SECRET, 20.0) == "welcome"
    for host in range(MAX_WRONG):
        attempt("wrong", 0.0, f"2001:db8::{host:x}")
    assert "too many" in attempt(SECRET, 0.0, "2001:db8::ffff"), "one client has a whole /64"
    assert attempt(SECRET, 0.0, "2001:db8:0:1::1") == "welcome"
    for number in range(5000):  # many addresses take no memory
        attempt("wrong", 0.0, f"10.0.{number // 256}.{number % 256}")
    assert len(tokens._wrong._found) <= 4096


class TestCommand:
    def test_it_prints_a_token_that_the_server_takes(self) -> None:
        command = ["token", "--role", "spectator", "--expires", "30m"]
        result = CliRunner().invoke(app, command, env={"WORLDBRIDGE_TOKEN": SECRET})
        assert result.exit_code == 0, result.output
        tokens = Authenticator(SECRET, {})
        grant = tokens.authenticate(result.stdout.strip(), "spectator", time.time())
        assert 1700 < grant.expires_s - time.time() <= 1800

    def test_without_a_secret_it_says_what_to_do(self) -> None:
        result = CliRunner().invoke(app, ["token"], env={"WORLDBRIDGE_TOKEN": ""})
        assert isinstance(result.exception, ConfigError)
        assert "WORLDBRIDGE_TOKEN" in result.exception.remedy


class TestGateway:
    async def test_a_spectators_token_watches_and_nothing_else(self, make_rig: RigMaker) -> None:
        rig = await make_rig(token=SECRET)
        await rig.worker()
        player = await rig.play(hello=Hello("owner", token=SECRET))
        await player.until(Frame)
        token = issue(SECRET, "spectator", time.time() + 600)
        error = await (await rig.greet(Hello("guest", token=token))).until(Error)
        assert error.code == "unauthorized" and "spectator" in error.expected
        guest = await rig.greet(Hello("guest", "spectator", token=token))
        await guest.until(Frame)
        await guest.send(RequestControl())
        error = await guest.until(Error)
        assert not error.fatal and "token to play" in error.expected

    async def test_an_address_that_tries_tokens_has_to_wait_on_every_transport(
        self, make_rig: RigMaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens_module, "WRONG_S", 600.0)  # however slow this machine is
        rig = await make_rig(token=SECRET, zmq_port=0, whip="on")
        await rig.worker()
        player = await rig.play(hello=Hello("owner", token=SECRET))
        guest = issue(SECRET, "spectator", time.time() + 600)

        async def metrics(token: str) -> str:
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(trust_env=False) as http:
                answer = await http.get(rig.url + "metrics", headers=headers)
            assert answer.status_code == 401
            return answer.text

        for refused in WAYS.values():
            assert "too many" not in (await refused(rig, "a wrong one"))["message"]
        assert "too many" not in await metrics("a wrong one")
        for _ in range(MAX_WRONG - len(WAYS) - 1):
            await by_websocket(rig, "another one")
        for way, refused in WAYS.items():  # the right one is not looked at
            assert "too many wrong tokens" in (await refused(rig, SECRET))["message"], way
        assert "too many wrong tokens" in await metrics(SECRET)
        watcher = await rig.greet(Hello("guest", "spectator", token=guest))
        await watcher.until(Frame)  # who was given a token is not kept out by others
        await player.until(Frame)

    async def test_a_connection_ends_with_its_token(self, make_rig: RigMaker) -> None:
        rig = await make_rig(token=SECRET)
        await rig.worker()
        token = issue(SECRET, "player", time.time() + 6)
        client = await rig.play(hello=Hello("short", token=token))
        error = await client.until(Error)
        assert (error.code, error.fatal) == ("unauthorized", True) and "expired" in error.message

    async def test_a_replayed_token_is_refused_also_by_the_next_gateway(
        self, make_rig: RigMaker, tmp_path: Path
    ) -> None:
        state = str(tmp_path / "state")
        rig = await make_rig(token=SECRET, state_dir=state)
        await rig.worker()
        token = issue(SECRET, "player", time.time() + 600, once=True)
        first = await rig.play(hello=Hello("first", token=token))
        await first.until(Frame)
        replay = await (await rig.greet(Hello("thief", token=token))).until(Error)
        assert replay.code == "unauthorized" and "used already" in replay.message
        again = await rig.greet(Hello("first", token=token, resume=first.welcome.resume))
        assert (await again.until(Welcome)).session == first.welcome.session
        other = await make_rig(token=SECRET, state_dir=state, endpoint=f"ipc://{tmp_path}/other")
        await other.worker()
        replay = await (await other.greet(Hello("thief", token=token))).until(Error)
        assert replay.code == "unauthorized" and "used already" in replay.message
