"""A webhook leads into no private network, however its URL is written and whatever the DNS answers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import httpcore2
import pytest
from django.core.exceptions import ValidationError
from django.test import override_settings

from policies.alerting import endpoints, sending, targets
from policies.alerting.sending import NotSent
from policies.alerting.targets import RefusedTarget
from policies.models import AlertEndpoint
from tokvigil_site.tests.alerting.receiver import Receiver, receiving

Dns = Callable[..., None]
PUBLIC = "93.184.215.14"


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Dns:
    """`dns("93.184.215.14", "10.0.0.1")`: what any name leads to, and what it leads to when it is asked again."""

    def answers(*addresses: str, again: tuple[str, ...] = ()) -> None:
        real = socket.getaddrinfo
        left = [addresses, *([again] if again else [])]

        def getaddrinfo(host: str, port: int, *args: Any, **named: Any) -> list[Any]:
            if host[0].isdecimal():
                return real(host, port, *args, **named)
            found = left.pop(0) if len(left) > 1 else left[0]
            return [(0, 0, 0, "", (address, port)) for address in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return answers


# What each tries to reach by an address that is written in the URL.
WRITTEN = {
    "loopback": "https://127.0.0.1/",
    "loopback, short": "https://127.1/",
    "loopback as one number": "https://2130706433/",
    "loopback in octal": "https://0177.0.0.1/",
    "loopback in hexadecimal": "https://0x7f.0.0.1/",
    "loopback as one hexadecimal number": "https://0x7f000001/",
    "loopback in full-width digits": "https://１２７.0.0.1/",
    "loopback of IPv6": "https://[::1]/",
    "IPv4 in IPv6": "https://[::ffff:127.0.0.1]/",
    "IPv4 in IPv6, in hexadecimal": "https://[::ffff:7f00:1]/",
    "IPv4 by NAT64": "https://[64:ff9b::7f00:1]/",
    "IPv4 by local NAT64": "https://[64:ff9b:1::7f00:1]/",
    "IPv4 by 6to4": "https://[2002:7f00:1::]/",
    "IPv4-compatible IPv6": "https://[::127.0.0.1]/",
    "metadata": "https://169.254.169.254/latest/meta-data/",
    "metadata of IPv6": "https://[fd00:ec2::254]/",
    "metadata of Azure": "https://168.63.129.16/",
    "metadata in carrier-grade NAT": "https://100.100.100.200/",
    "private": "https://10.0.0.1/",
    "private, class B": "https://172.31.255.255/",
    "private, class C": "https://192.168.1.1/",
    "this network": "https://0.0.0.0/",
    "broadcast": "https://255.255.255.255/",
    "multicast": "https://224.0.0.1/",
    "link-local of IPv6": "https://[fe80::1]/",
    "link-local with a zone": "https://[fe80::1%25eth0]/",
    "unique local of IPv6": "https://[fc00::1]/",
    "site-local of IPv6": "https://[fec0::1]/",
    "unspecified of IPv6": "https://[::]/",
}
# What is refused whatever its host is.
SHAPES = {
    "plain http": "http://hooks.example.com/",
    "files": "file:///etc/passwd",
    "gopher": "gopher://hooks.example.com:443/_x",
    "no scheme": "//hooks.example.com/",
    "credentials": "https://user:password@hooks.example.com/",
    "a host hidden behind credentials": "https://hooks.example.com@127.0.0.1/",
    "the counter store's port": "https://hooks.example.com:6379/",
    "a port of an old service": "https://hooks.example.com:25/",
    "port 0": "https://hooks.example.com:0/",
    "a backslash": "https://hooks.example.com\\@127.0.0.1/",
    "a line end": "https://hooks.example.com/\r\nHost: evil",
    "a percent sign in the host": "https://127%2e0.0.1/",
    "a fragment": "https://hooks.example.com#@127.0.0.1/",
    "no host": "https:///path",
    "blank": "",
    "an empty label": "https://hooks..example.com/",
}


@pytest.mark.parametrize("url", WRITTEN.values(), ids=WRITTEN.keys())
def test_an_address_that_is_not_public_is_refused_however_it_is_written(url: str) -> None:
    with pytest.raises(RefusedTarget):
        targets.addresses(targets.parse(url))


@pytest.mark.parametrize("url", SHAPES.values(), ids=SHAPES.keys())
def test_a_url_that_could_mean_something_else_is_refused(url: str, dns: Dns) -> None:
    dns(PUBLIC)
    with pytest.raises(RefusedTarget):
        targets.parse(url)


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("10.1.2.3",),
        ("169.254.169.254",),
        ("100.64.0.1",),
        ("::1",),
        ("::ffff:10.0.0.1",),
        ("64:ff9b::a00:1",),
        ("fe80::1%eth0",),
        # One public address does not make the others so.
        (PUBLIC, "10.0.0.1"),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", "fd00::1"),
    ],
)
def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(
    addresses: tuple[str, ...], dns: Dns
) -> None:
    dns(*addresses)
    target = targets.parse("https://hooks.example.com/x")
    with pytest.raises(RefusedTarget, match=r"hooks\.example\.com leads to"):
        targets.addresses(target)


def test_public_targets_are_taken(dns: Dns) -> None:
    dns(PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c")
    target = targets.parse("https://Hooks.Example.com.:8443/a/b?c=d%20e")
    assert (target.host, target.port, target.path) == ("hooks.example.com", 8443, "/a/b?c=d%20e")
    assert targets.addresses(target) == [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]
    assert targets.is_public(ip_address("::ffff:93.184.215.14"))
    assert targets.addresses(targets.parse("https://[2606:4700::1111]/")) == ["2606:4700::1111"]


def test_a_second_answer_of_the_dns_is_never_asked_for(dns: Dns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: public when it is checked, loopback when it would be looked up again."""
    connected = []

    def connect(self: object, host: str, *args: Any, **named: Any) -> None:
        connected.append(host)
        raise httpcore2.ConnectError("not in a test")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    dns(PUBLIC, again=("127.0.0.1",))
    with pytest.raises(NotSent):
        sending.post("https://rebinding.example.com/", b"{}", {})
    assert connected == [PUBLIC]


def test_each_attempt_checks_anew(dns: Dns) -> None:
    dns(PUBLIC)
    targets.addresses(targets.parse("https://hooks.example.com/"))
    dns("10.0.0.1")
    with pytest.raises(NotSent, match="no public address") as refused:
        sending.post("https://hooks.example.com/", b"{}", {})
    assert refused.value.is_final


def test_the_host_is_said_to_the_receiver_though_the_connection_is_to_an_address(dns: Dns) -> None:
    with receiving() as there:
        dns("127.0.0.1")
        named = f"hooks.internal:{there.port}"
        with override_settings(ALERT_PRIVATE_TARGETS=["hooks.internal"]):
            assert sending.post(f"http://{named}/", b"{}", {}).status == 204
        assert there.received[0].headers["host"] == named


def test_the_environments_proxies_are_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert sending.post(receiver.url, b"{}", {}).status == 204


@override_settings(ALERT_PRIVATE_TARGETS=["10.1.2.3:9000", "hooks.internal", "[fd00::1]:8080"])
def test_the_setting_allows_what_it_names_and_nothing_else(dns: Dns) -> None:
    dns("10.9.9.9")
    for url in ("http://10.1.2.3:9000/", "https://hooks.internal:1234/", "http://[fd00::1]:8080/"):
        targets.addresses(targets.parse(url))
    for url in ("http://10.1.2.3/", "https://10.1.2.4:9000/", "https://other.internal/", "http://[fd00::1]/"):
        with pytest.raises(RefusedTarget):
            targets.addresses(targets.parse(url))


def test_a_form_says_beside_the_field_why_a_target_is_refused() -> None:
    endpoint = AlertEndpoint(kind="webhook", address="https://169.254.169.254/")
    with pytest.raises(ValidationError) as refused:
        endpoints.clean(endpoint)
    assert "no public address" in refused.value.message_dict["address"][0]


@pytest.mark.parametrize(
    ("url", "leads_to", "said"),
    [
        ("http://hooks.example.com:25/", "10.0.0.1", ("https://", "Port 25", "no public address")),
        ("http://10.0.0.1:25/", "", ("https://", "Port 25", "no public address")),
        ("https://hooks.example.com:25/", PUBLIC, ("Port 25",)),
        ("http://hooks.example.com/", PUBLIC, ("https://",)),
    ],
)
def test_a_form_says_all_that_is_wrong_at_once(
    url: str, leads_to: str, said: tuple[str, ...], dns: Dns
) -> None:
    if leads_to:
        dns(leads_to)
    endpoint = AlertEndpoint(kind="webhook", address=url)
    with pytest.raises(ValidationError) as refused:
        endpoints.clean(endpoint)
    (words,) = refused.value.message_dict["address"]
    found = [each for each in ("https://", "Port 25", "no public address") if each in words]
    assert found == list(said)
