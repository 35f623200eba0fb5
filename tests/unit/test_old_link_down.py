"""An old trace's end of a link means what it meant when it was recorded."""

from __future__ import annotations

import pytest

from appliance.conversation.support.retry import classify
from tests.support.old_link_down import translate

# (code, reason, last error) -> (action, kind); the first block is recorded from the live service
ROWS = [
    (1000, "", None, "retry", "closed"),
    (1001, "Your session hit the maximum duration of 60 minutes.", "session_expired", "expired", "session_expired"),
    (1001, "Your session hit the maximum duration of 60 minutes.", None, "expired", "session_expired"),
    (1001, "", "session_expired", "expired", "session_expired"),
    (3000, "invalid_request_error.invalid_api_key", "invalid_api_key", "fatal", "bad_key"),
    (3000, "invalid_request_error.invalid_api_key", None, "fatal", "bad_key"),
    (1013, "insufficient_quota.credit_balance_exhausted", "credit_balance_exhausted", "fatal", "no_credit"),
    (1013, "insufficient_quota.credit_balance_exhausted", None, "fatal", "no_credit"),
    (4000, "invalid_request_error.beta_api_shape_disabled", None, "fatal", "bad_shape"),
    (4000, "invalid_request_error.missing_model", None, "fatal", "model_not_found"),
    (4000, "invalid_request_error.invalid_model", None, "fatal", "model_not_found"),
    (4004, "invalid_request_error.model_not_found", None, "fatal", "model_not_found"),
    # OpenAI's form: accepted, an error event, then a close that may be lost on the way
    (1006, "", "invalid_api_key", "fatal", "bad_key"),
    (None, "lost: Connection reset by peer", "insufficient_quota", "fatal", "no_credit"),
    (1006, "", "account_deactivated", "fatal", "account_closed"),
    (1006, "", "billing_hard_limit_reached", "fatal", "no_credit"),
    (1011, "", "rate_limit_exceeded", "retry", "rate_limited"),
    (1006, "", "response_cancel_not_active", "retry", "lost"),
    (None, "refused: Connection refused", "rate_limit_exceeded", "retry", "refused"),
    # numbers alone
    (1001, "", None, "retry", "closed"),
    (1001, "server_shutdown", None, "retry", "server_error"),
    (1002, "", None, "retry", "protocol_error"),
    (1003, "", None, "retry", "protocol_error"),
    (1005, "", None, "retry", "lost"),
    (1006, "", None, "retry", "lost"),
    (1006, "Connection reset by peer", None, "retry", "lost"),
    (1007, "", None, "retry", "protocol_error"),
    (1008, "", None, "fatal", "policy"),
    (1008, "Unauthorized", None, "fatal", "unauthorized"),
    (1008, "Conversation timed out after 900.0 seconds due to inactivity", None, "expired", "session_expired"),
    (1009, "", None, "retry", "too_big"),
    (1011, "", None, "retry", "server_error"),
    (1012, "", None, "retry", "server_error"),
    (1013, "", None, "retry", "server_error"),
    (1013, "try again later", None, "retry", "server_error"),
    (1014, "", None, "retry", "server_error"),
    (1015, "", None, "retry", "tls"),
    (3000, "", None, "fatal", "unauthorized"),
    (3000, "invalid_request_error.something_new", None, "fatal", "bad_shape"),
    (3000, "server_error.overloaded", None, "retry", "server_error"),
    (3008, "", None, "retry", "timeout"),
    (4000, "", None, "fatal", "bad_shape"),
    (4001, "", None, "fatal", "unauthorized"),
    (4429, "", None, "retry", "rate_limited"),
    (4999, "", None, "retry", "closed"),
    (4999, "invalid_request_error.something_new", None, "fatal", "bad_shape"),
    # the upgrade was answered with an HTTP status
    (200, "OK", None, "retry", "not_a_server"),
    (302, "Found", None, "retry", "not_a_server"),
    (400, "Bad Request", None, "fatal", "bad_shape"),
    (401, "Unauthorized", None, "fatal", "bad_key"),
    (402, "Payment Required", None, "fatal", "no_credit"),
    (403, "Forbidden", None, "fatal", "unauthorized"),
    (403, "invalid_request_error.unsupported_country_region_territory", None, "fatal", "region"),
    (404, "Not Found", None, "fatal", "not_an_endpoint"),
    (404, "invalid_request_error.model_not_found", None, "fatal", "model_not_found"),
    (404, "DeploymentNotFound", None, "fatal", "model_not_found"),
    (405, "", None, "fatal", "not_an_endpoint"),
    (407, "the proxy answers 407", None, "fatal", "proxy"),
    (408, "", None, "retry", "timeout"),
    (410, "", None, "fatal", "not_an_endpoint"),
    (418, "I'm a teapot", None, "fatal", "bad_shape"),
    (425, "", None, "retry", "rate_limited"),
    (426, "", None, "fatal", "not_an_endpoint"),
    (429, "Too Many Requests", None, "retry", "rate_limited"),
    (429, "insufficient_quota.insufficient_quota", None, "fatal", "no_credit"),
    (500, "Internal Server Error", None, "retry", "server_error"),
    (502, "", None, "retry", "server_error"),
    (503, "", None, "retry", "server_error"),
    (504, "", None, "retry", "timeout"),
    (511, "", None, "retry", "not_a_server"),
    # neither: the transport's tags
    (None, "refused: Connection refused", None, "retry", "refused"),
    (None, "unreachable: Network is unreachable", None, "retry", "unreachable"),
    (None, "name_not_found: api.example: Name or service not known", None, "retry", "name_not_found"),
    (None, "tls: certificate is not yet valid", None, "retry", "tls"),
    (None, "timeout: no answer to a ping within 10 s", None, "retry", "timeout"),
    (None, "not_a_server: InvalidUpgrade in the WebSocket handshake", None, "retry", "not_a_server"),
    (None, "no_key: the file is empty", None, "fatal", "no_key"),
    (None, "proxy: InvalidProxy", None, "fatal", "proxy"),
    (None, "bad_address: 'x' is not a WebSocket address", None, "fatal", "bad_address"),
    (None, "lost: the connection was closed during the handshake", None, "retry", "lost"),
    # neither, and no tag: what the conversation itself says, and what systems say
    (None, "timed out waiting for session.created", None, "retry", "timeout"),
    (None, "6 unreadable frames", None, "retry", "bad_frames"),
    (None, "[Errno 111] Connection refused", None, "retry", "refused"),
    (None, "[Errno -3] Temporary failure in name resolution", None, "retry", "name_not_found"),
    (None, "[Errno 113] No route to host", None, "retry", "unreachable"),
    (None, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", None, "retry", "tls"),
    (None, "Incorrect API key provided", None, "fatal", "bad_key"),
    (None, "You exceeded your current quota", None, "fatal", "no_credit"),
    (None, "", None, "retry", "lost"),
]


@pytest.mark.parametrize(("code", "reason", "last_error", "action", "kind"), ROWS)
def test_each_old_end_of_a_link_means_what_it_meant(
    code: int | None, reason: str, last_error: str | None, action: str, kind: str
) -> None:
    verdict = classify(translate(code, reason), code, last_error=last_error)

    assert (verdict.action, verdict.kind) == (action, kind)
