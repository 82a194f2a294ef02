"""ICE servers, credentials, addresses and ports: from settings to what clients and sockets get."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from tests.bridge.conftest import Rig, RigMaker
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.network import (
    bitrate_limits,
    ice_binding,
    ice_servers,
    rtc_settings,
)
from worldbridge.bridge.protocol import Hello
from worldbridge.errors import ConfigError

SERVERS = ("stun:stun.example.org", "turn:turn.example.org:3478?transport=tcp")
PAGE = Hello("page", transports=("webrtc",), codecs=("h264",))


def test_turn_credentials_are_for_one_hour_and_can_be_checked_by_the_turn_server() -> None:
    config = GatewayConfig(ice_servers=SERVERS, turn_secret="shared")
    stun, turn = ice_servers(config, now_s=1_000_000.0)
    assert (stun.urls, stun.username, stun.credential) == (SERVERS[:1], None, None)
    assert turn.urls == SERVERS[1:] and turn.username is not None
    expiry, _, user = turn.username.partition(":")
    assert int(expiry) == 1_003_600 and user
    digest = hmac.new(b"shared", turn.username.encode(), hashlib.sha1).digest()
    assert turn.credential == base64.b64encode(digest).decode()


def test_without_a_secret_turn_servers_are_named_alone() -> None:
    _, turn = ice_servers(GatewayConfig(ice_servers=SERVERS))
    assert (turn.username, turn.credential) == (None, None)


async def test_clients_of_webrtc_get_them_and_others_do_not(make_rig: RigMaker) -> None:
    rig = await make_rig(ice_servers=SERVERS, turn_secret="shared", seats=2)
    await rig.worker()
    welcome = (await rig.play(hello=PAGE)).welcome
    assert [server.urls[0] for server in welcome.ice_servers] == list(SERVERS)
    assert welcome.ice_servers[1].credential
    assert (await rig.play()).welcome.ice_servers == ()


async def test_the_default_has_none(rig: Rig) -> None:
    await rig.worker()
    assert (await rig.play(hello=PAGE)).welcome.ice_servers == ()


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("127.0.0.1", ("127.0.0.1",)), ("localhost", ("127.0.0.1",)), ("::1", ("::1",))],
)
def test_sockets_are_where_the_server_listens(host: str, addresses: tuple[str, ...]) -> None:
    assert ice_binding(GatewayConfig(host=host)).addresses == addresses


def test_every_network_and_the_ports_and_the_public_address() -> None:
    config = GatewayConfig(
        host="0.0.0.0",
        token="a secret of some length",
        public_address="203.0.113.5",
        udp_ports="40000-40100",
        ice_servers=SERVERS,
    )
    binding = ice_binding(config)
    assert binding.addresses == ()
    assert (binding.ports, binding.public_address) == ((40_000, 40_100), "203.0.113.5")
    settings = rtc_settings(config)
    assert settings.relays and settings.ice_servers() == (), "nobody has to ask for the address"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ice_servers", ("http://example.org",)),
        ("ice_servers", ("stun:host?transport=udp",)),
        ("ice_servers", ("turn:host?transport=sctp",)),
        ("ice_servers", ("turn:user@host",)),
        ("public_address", "example.org"),
        ("udp_ports", "40000"),
        ("udp_ports", "9-8"),
        ("udp_ports", "0-10"),
        ("udp_ports", "1-65536"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        GatewayConfig(**{name: value})
    assert caught.value.expected and caught.value.got


def test_bit_rates_are_in_order() -> None:
    limits = bitrate_limits(
        GatewayConfig(bitrate=500_000, min_bitrate=800_000, start_bitrate=2_000_000)
    )
    assert limits.floor == limits.start == limits.ceiling == 500_000
