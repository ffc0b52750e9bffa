"""openapi.json, held against the operations and against a running server."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from importlib.resources import files
from typing import Any

import hypothesis
import pytest

from fastchat.api.paths import OPERATIONS, PREFIX, Operation
from fastchat.errors import ErrorCode
from server.api.conftest import Place
from support.api import Client

DESCRIPTION: dict[str, Any] = json.loads(
    (files("fastchat.api") / "openapi.json").read_text("utf-8")
)
DESCRIBED = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DESCRIPTION["paths"].items()
    for method, operation in methods.items()
}
#: A stream has no end, so its answer cannot be read.
CALLED = [operation for operation in OPERATIONS if operation.name != "streamEvents"]


@pytest.fixture(scope="module")
def schemathesis() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, at their import
        return importlib.import_module("schemathesis")


def test_every_operation_is_described_and_no_other() -> None:
    """The description has the operations of the server, with their methods, paths and rights."""
    for operation in OPERATIONS:
        method, path, described = DESCRIBED[operation.name]
        assert (method, path) == (operation.method, PREFIX + operation.path)
        said = re.findall(
            r"needs the right `(\w+)`(?: or `(\w+)`)?", described.get("description", "")
        )
        assert [right for match in said for right in match if right] == list(operation.rights)
        assert ("security" in described) == (not operation.rights)
    assert len(DESCRIBED) == len(OPERATIONS)


def test_every_code_is_described() -> None:
    """The codes of errors are those of the protocol that the API can answer, and its own."""
    codes = set(DESCRIPTION["components"]["schemas"]["Error"]["properties"]["code"]["enum"])
    of_members = {"not_joined", "already_joined", "username_taken"}
    assert codes == (set(map(str, ErrorCode)) - of_members) | {"gone", "conflict"}
    assert set(DESCRIPTION["components"]["responses"]) == {
        *("400", "401", "403", "404", "409", "410", "411", "413", "429", "503"),
    }


def test_description_is_served_without_a_key(place: Place) -> None:
    """Programs can read the description without a key."""
    client = Client(place.server.port, None)
    assert client("GET", "/openapi.json").json == DESCRIPTION
    client.close()


@pytest.mark.parametrize("operation", CALLED, ids=lambda operation: operation.name)
def test_answers_are_as_described(place: Place, schemathesis: Any, operation: Operation) -> None:
    """Whatever is sent, valid or not, the status, the type and the body are described ones."""
    checks = importlib.import_module("schemathesis.specs.openapi.checks")
    modes = [schemathesis.GenerationMode.POSITIVE]
    _, _, fields = DESCRIBED[operation.name]
    if "parameters" in fields or "requestBody" in fields:
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    described = schemathesis.openapi.from_dict(DESCRIPTION)[PREFIX + operation.path]
    cases = hypothesis.strategies.one_of(
        *(described[operation.method].as_strategy(generation_mode=mode) for mode in modes)
    )

    @hypothesis.settings(
        max_examples=15,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(cases)
    def check(case: Any) -> None:
        headers = {"authorization": f"Bearer {place.api.key}"}
        response = case.call(base_url=f"http://127.0.0.1:{place.server.port}", headers=headers)
        case.validate_response(
            response,
            checks=[
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_headers_conformance,
                checks.response_schema_conformance,
            ],
        )
        assert response.status_code < 500

    check()
