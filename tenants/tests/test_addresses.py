"""Where a call comes from, and what is believed about it."""

import pytest
from django.core.checks import run_checks
from django.test import RequestFactory, override_settings

from tenants.api import addresses
from tenants.api.addresses import UNKNOWN

OFFICE = "203.0.113.7"
STRANGER = "198.51.100.66"
PROXIES = ["10.0.0.0/8", "2001:db8:1::/48"]


def address(peer: str, **headers: str) -> str:
    return addresses.address_of(RequestFactory(headers=headers).get("/", REMOTE_ADDR=peer))


@pytest.fixture
def behind_proxies(settings) -> None:  # type: ignore[no-untyped-def]
    settings.TRUSTED_PROXIES = PROXIES


def test_without_named_proxies_no_header_is_believed() -> None:
    assert address("10.0.0.1", x_forwarded_for=OFFICE) == "10.0.0.1"


def test_a_header_from_elsewhere_is_not_believed(behind_proxies: None) -> None:
    assert address(STRANGER, x_forwarded_for=OFFICE) == STRANGER


def test_a_proxy_without_a_header_calls_for_itself(behind_proxies: None) -> None:
    assert address("10.0.0.1") == "10.0.0.1"


@pytest.mark.parametrize(
    ("told", "caller"),
    [
        (OFFICE, OFFICE),
        # What the caller wrote stands first.
        (f"{OFFICE}, {STRANGER}", STRANGER),
        (f"{OFFICE},{STRANGER}, 10.1.1.1 ,10.2.2.2", STRANGER),
        ("10.3.3.3, 10.1.1.1", "10.3.3.3"),
        (f"{OFFICE}:4711", OFFICE),
        ("[2001:db8:2::7]:4711", "2001:db8:2::7"),
        ("2001:db8:2::7, 2001:db8:1::1", "2001:db8:2::7"),
        (f"::ffff:{OFFICE}", OFFICE),
        (f"{OFFICE}, ::ffff:10.1.1.1", OFFICE),
        ("unknown", UNKNOWN),
        (f"{OFFICE}, unknown", UNKNOWN),
        (f"{OFFICE}, ", UNKNOWN),
        ("", UNKNOWN),
        (f"junk, {OFFICE}", OFFICE),
        ("10.1.1.1:99999999", UNKNOWN),
        ("é", UNKNOWN),
    ],
)
def test_the_last_address_that_is_no_proxy_is_the_caller(
    behind_proxies: None, told: str, caller: str
) -> None:
    for peer in ("10.0.0.1", "::ffff:10.0.0.1", "2001:db8:1::9"):
        assert address(peer, x_forwarded_for=told) == caller


@pytest.mark.parametrize(
    ("told", "caller"),
    [
        (f"for={OFFICE}", OFFICE),
        (f"for={OFFICE};proto=https;by=10.0.0.1", OFFICE),
        (f"proto=https; For={OFFICE}, for=10.1.1.1", OFFICE),
        (f'for={OFFICE}, for="[2001:db8:2::7]:4711"', "2001:db8:2::7"),
        (f'for="{OFFICE}:4711"', OFFICE),
        ("for=_hidden", UNKNOWN),
        ("proto=https", UNKNOWN),
        (f"for={OFFICE}, proto=https", UNKNOWN),
        # A quote that the caller left open, or closes with the proxy's own.
        (f'for={OFFICE};x=", for={STRANGER}', UNKNOWN),
        (f'for={OFFICE};x=", for="{STRANGER}:1"', UNKNOWN),
        (f"junk, for={STRANGER}", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_forwarded_is_read_as_its_rfc_writes_it(behind_proxies: None, told: str, caller: str) -> None:
    with override_settings(CLIENT_ADDRESS_HEADER="Forwarded"):
        assert address("10.0.0.1", forwarded=told, x_forwarded_for="192.0.2.1") == caller


def test_another_header_can_be_named(behind_proxies: None) -> None:
    with override_settings(CLIENT_ADDRESS_HEADER="x-real-ip"):
        assert address("10.0.0.1", x_real_ip=OFFICE, x_forwarded_for=STRANGER) == OFFICE


@pytest.mark.parametrize(
    ("caller", "network", "is_in"),
    [
        ("::ffff:10.0.0.1", "10.0.0.0/8", True),
        ("10.0.0.1", "::ffff:10.0.0.0/104", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("::ffff:11.0.0.1", "10.0.0.0/8", False),
        ("11.0.0.1", "::ffff:10.0.0.0/104", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("::10.0.0.1", "10.0.0.0/8", False),
        (UNKNOWN, "0.0.0.0/0", False),
        ("localhost", "::/0", False),
    ],
)
def test_ipv4_is_the_same_in_either_form(caller: str, network: str, is_in: bool) -> None:
    assert addresses.is_in(caller, [addresses.parse_network(network)]) is is_in


@pytest.mark.parametrize(
    ("proxies", "header", "ids"),
    [
        ([], "X-Forwarded-For", []),
        (["10.0.0.0/8", "::1"], "Forwarded", []),
        (["proxy.internal"], "X-Forwarded-For", ["tenants.E001"]),
        (["10.0.0.1/8"], "X-Forwarded-For", ["tenants.E001"]),
        (["0.0.0.0/0", "::/0"], "X-Forwarded-For", ["tenants.E002", "tenants.E002"]),
        (["10.0.0.0/8"], "X_Forwarded_For", ["tenants.E003"]),
        (["10.0.0.0/8"], "", ["tenants.E003"]),
        ([], "X-Real-IP", ["tenants.W001"]),
    ],
)
def test_settings_that_cannot_be_meant_are_named(proxies: list[str], header: str, ids: list[str]) -> None:
    with override_settings(TRUSTED_PROXIES=proxies, CLIENT_ADDRESS_HEADER=header):
        found = [message.id for message in run_checks() if str(message.id).startswith("tenants.")]
    assert found == ids


def test_a_proxy_that_cannot_be_read_is_not_trusted(settings) -> None:  # type: ignore[no-untyped-def]
    settings.TRUSTED_PROXIES = ["10.0.0.1/8"]
    assert address("10.0.0.1", x_forwarded_for=OFFICE) == "10.0.0.1"
