"""Classification of failed connections by close codes, statuses, exceptions and error codes."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosedError, InvalidHandshake, InvalidMessage, InvalidProxy, InvalidURI
from websockets.frames import Close

from appliance.realtime.transports.failures import Failure, kind_of_close, kind_of_status, of_close, of_opening

URL = "wss://unauthorized.example.org/v1/realtime?model=session_expired"

# The first block was recorded from the live service.
CLOSES = [
    (1000, "", "closed"),
    (1001, "Your session hit the maximum duration of 60 minutes.", "session_expired"),
    (3000, "invalid_request_error.invalid_api_key", "bad_key"),
    (1013, "insufficient_quota.credit_balance_exhausted", "no_credit"),
    (4000, "invalid_request_error.beta_api_shape_disabled", "bad_shape"),
    (4000, "invalid_request_error.missing_model", "model_not_found"),
    (4000, "invalid_request_error.invalid_model", "model_not_found"),
    (4004, "invalid_request_error.model_not_found", "model_not_found"),
    # an error code where servers put one
    (1013, "insufficient_quota: You exceeded your current quota", "no_credit"),
    (1008, "rate limit: a text of several words is no code", "policy"),
    (1001, "Your session hit the maximum duration of 60 minutes", "session_expired"),
    (3000, "invalid_request_error.invalid_api_key. Incorrect API key provided: sk-…", "bad_key"),
    (3000, "invalid_request_error.invalid_api_key: see\nthe settings", "bad_key"),
    (1001, "server_shutdown", "server_error"),
    (3000, "server_error.overloaded", "server_error"),
    (3000, "invalid_request_error.something_new", "bad_shape"),
    (4000, "invalid_request_error.something_new", "bad_shape"),
    (4999, "invalid_request_error.something_new", "bad_shape"),
    (1011, "invalid_request_error.something_new", "server_error"),
    (1008, "DeploymentNotFound", "model_not_found"),
    # complete reasons of other servers
    (1008, "Unauthorized", "unauthorized"),
    (1008, "Conversation timed out after 900.0 seconds due to inactivity", "session_expired"),
    # words that are not an error code
    (1008, "unauthorized.example.org", "policy"),
    (1008, "unauthorized.example.org is not for you", "policy"),
    (1008, "no host model_not_found.example.org", "policy"),
    (1000, "token file missing", "closed"),
    (1000, "session expired, said the token file", "closed"),
    (1000, "rate_limit_exceeded is not what happened", "closed"),
    (1011, "Incorrect API key provided", "server_error"),
    # close codes without a reason
    (1001, "", "closed"),
    (1002, "", "protocol_error"),
    (1003, "", "protocol_error"),
    (1005, "", "lost"),
    (1006, "", "lost"),
    (1006, "Connection reset by peer", "lost"),
    (1007, "", "protocol_error"),
    (1008, "", "policy"),
    (1009, "", "too_big"),
    (1011, "", "server_error"),
    (1012, "", "server_error"),
    (1013, "", "server_error"),
    (1013, "try again later", "server_error"),
    (1014, "", "server_error"),
    (1015, "", "tls"),
    (3000, "", "unauthorized"),
    (3008, "", "timeout"),
    (4000, "", "bad_shape"),
    (4001, "", "unauthorized"),
    (4429, "", "rate_limited"),
    (4999, "", "closed"),
]

STATUSES = [
    (200, (), "not_a_server"),
    (302, (), "not_a_server"),
    (400, (), "bad_shape"),
    (401, (), "bad_key"),
    (402, (), "no_credit"),
    (403, (), "unauthorized"),
    (403, ("invalid_request_error", "unsupported_country_region_territory"), "region"),
    (404, (), "not_an_endpoint"),
    (404, ("invalid_request_error", "model_not_found"), "model_not_found"),
    (404, ("DeploymentNotFound",), "model_not_found"),
    (405, (), "not_an_endpoint"),
    (407, (), "proxy"),
    (408, (), "timeout"),
    (410, (), "not_an_endpoint"),
    (418, (), "bad_shape"),
    (425, (), "rate_limited"),
    (426, (), "not_an_endpoint"),
    (429, (), "rate_limited"),
    (429, ("insufficient_quota", "rate_limit_exceeded"), "no_credit"),
    (500, (), "server_error"),
    (502, (), "server_error"),
    (503, (), "server_error"),
    (504, (), "timeout"),
    (511, (), "not_a_server"),
]

OPENINGS = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "refused", "Connection refused"),
    (OSError(errno.ENETUNREACH, "Network is unreachable"), "unreachable", "Network is unreachable"),
    (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable", "No route to host"),
    (OSError(errno.ENETDOWN, "Network is down"), "unreachable", "Network is down"),
    (OSError(errno.ECONNRESET, "refused: unauthorized"), "lost", "refused: unauthorized"),
    (OSError("timed out: certificate"), "lost", "OSError"),
    (
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        "name_not_found",
        "unauthorized.example.org: Temporary failure in name resolution",
    ),
    (ssl.SSLError(1, "refused"), "tls", "the handshake failed"),
    (InvalidProxy("http://h:x", "no port"), "proxy", "InvalidProxy"),
    (ImportError("python-socks is required"), "proxy", "ImportError"),
    (
        InvalidURI(URL, "unauthorized"),
        "bad_address",
        "'wss://unauthorized.example.org/v1/realtime' is not a WebSocket address",
    ),
    (InvalidHandshake("unauthorized"), "not_a_server", "InvalidHandshake in the WebSocket handshake"),
    (InvalidMessage("unauthorized"), "not_a_server", "InvalidMessage in the WebSocket handshake"),
    (EOFError("unauthorized"), "lost", "EOFError"),
]


@pytest.mark.parametrize(("code", "reason", "kind"), CLOSES)
def test_close_frame_is_classified(code: int, reason: str, kind: str) -> None:
    assert kind_of_close(code, reason) == kind


@pytest.mark.parametrize(("status", "names", "kind"), STATUSES)
def test_refused_upgrade_is_classified(status: int, names: tuple[str, ...], kind: str) -> None:
    assert kind_of_status(status, names) == kind


@pytest.mark.parametrize(("problem", "kind", "detail"), OPENINGS)
def test_failed_opening_is_classified_by_type_and_not_by_text(problem: Exception, kind: str, detail: str) -> None:
    failure = of_opening(problem, URL)

    assert (failure.kind, failure.detail, failure.code) == (kind, detail, None)


@pytest.mark.parametrize(
    ("cause", "failure"),
    [
        (None, Failure("lost", "", 1006)),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), Failure("lost", "Connection reset by peer", 1006)),
        (
            OSError(errno.ETIMEDOUT, "Connection timed out"),
            Failure("timeout", "sent bytes were not acknowledged within 10 s"),
        ),
    ],
)
def test_socket_that_ends_without_a_close_frame_is_lost_or_timed_out(cause: OSError | None, failure: Failure) -> None:
    closed = ConnectionClosedError(None, None)
    closed.__cause__ = cause

    assert of_close(closed, ping_timeout_s=10.0) == failure


def test_frame_refused_by_the_library_is_classified_by_close_code_only() -> None:
    closed = ConnectionClosedError(None, Close(1009, "rate_limit_exceeded"))

    assert of_close(closed, ping_timeout_s=10.0) == Failure("too_big", "rate_limit_exceeded", 1009)


def test_unanswered_ping_is_a_timeout() -> None:
    closed = ConnectionClosedError(None, Close(1011, "keepalive ping timeout"))

    assert of_close(closed, ping_timeout_s=10.0) == Failure("timeout", "no answer to a ping within 10 s")


@given(st.text(), st.text())
def test_words_inside_a_reason_do_not_change_the_classification(before: str, after: str) -> None:
    assert kind_of_close(1000, f"{before} invalid_api_key, session expired {after}") == "closed"
