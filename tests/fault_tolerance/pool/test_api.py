"""The HTTP API over a manager of real engines, on a real socket: what it answers, that it is what it says of itself."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftharness.logs import read_metrics
from ftharness.pool.calls import Calls
from ftharness.pool.config import WarmupConfig
from ftharness.pool.endpoints import ENDPOINTS
from ftharness.pool.lease_command import hold
from ftharness.pool.lease_file import LeaseFile
from ftharness.pool.leases import NotKept

TOKEN = "0123456789abcdef-right"  # noqa: S105 - of these tests alone
HIDDEN = "hunter2-hunter2"


async def test_what_is_known_of_a_pool_can_be_read(kit: Any, served: Any) -> None:
    """All fields that a placement and a command line need; of one that there is not, its id and the nearest."""
    one = await served(kit.pool(replicas=2))
    await one.told.holds(lambda: one.manager.registry.pool("p").slots_free == 8, "both are ready")
    assert await one.get("/health") == {"live": True}
    (entry,) = (await one.get("/v1/pools"))["pools"]
    assert (entry["id"], entry["live"], entry["ready"], entry["draining"]) == ("p", True, True, False)
    assert {*entry["summary"]} == {
        "engine",
        "engine_version",
        "model_id",
        "device_mask",
        "devices",
        "slots_total",
        "slots_free",
        "perf_tokens_per_s",
        "first_token_ms",
    }
    health = await one.get("/v1/pools/p/health")
    fields = (
        "live ready draining last_error last_heartbeat_ms engine_version model_id active_leases slots_total slots_free "
        "vram_total_bytes vram_free_bytes compute_capability device_mask perf_tokens_per_s first_token_ms supports"
    )
    assert set(fields.split()) <= set(health)
    assert (health["slots_total"], health["engine_version"], health["last_error"]) == (8, "1.0", None)
    assert health["perf_tokens_per_s"] > 0
    refused = await one.get("/v1/pools/q/health", 404)
    assert refused["error"] == {"code": "unknown_pool", "message": "no pool 'q'; there are p", "pool_id": "q"}


async def test_capabilities_are_what_the_engine_said(kit: Any, served: Any) -> None:
    """Per engine, version and model; before an engine was ready none is made up. Every call of the API is among them."""
    one = await served(kit.pool(), kit.pool(id="later", preload=False))
    told = await one.get("/v1/capabilities")
    assert set(told["calls"]) == {f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS}
    now, later = told["pools"]
    assert (now["engine"], now["engine_version"], now["slots_total"]) == ("sim", "1.0", 4)
    assert "streaming" in now["supports"]["features"]
    assert (later["engine_version"], later["model_id"], later["slots_total"]) == (None, None, 0)


async def test_a_lease_is_taken_kept_and_given_back(kit: Any, served: Any) -> None:
    """Its address is in Location; renewed it lasts longer; given back twice is once; another pool's path does not find it."""
    one = await served(kit.pool(lease_ttl_max_s=100), kit.pool(id="other", preload=False))
    answer = await one.client.post("/v1/pools/p/leases", json={"holder": "me", "ttl_ms": 5000})
    assert answer.status_code == 201
    lease, where = answer.json(), answer.headers["location"]
    assert (lease["holder"], lease["state"], lease["engine_id"]) == ("me", "held", "p-1")
    assert lease["expires_ms"] - lease["granted_ms"] == 5000
    assert (await one.get("/v1/pools/p/health"))["active_leases"] == 1
    longer = (await one.client.patch(where, json={"ttl_ms": 3_600_000})).json()
    assert 90_000 < longer["expires_ms"] - lease["granted_ms"] < 110_000  # cut to what the pool grants
    assert (await one.get(where))["state"] == "held"
    elsewhere = where.replace("/p/", "/other/")
    for method in ("GET", "DELETE", "PATCH"):
        answer = await one.client.request(method, elsewhere)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_lease"), method
    for _ in range(2):
        answer = await one.client.delete(where)
        assert (answer.status_code, answer.json()["state"]) == (200, "released")
    answer = await one.client.patch(where)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "lease_released")
    assert (await one.get("/v1/pools/p/health"))["leases"]["released"] == 1


async def test_a_holder_is_told_at_once_when_its_engine_dies(kit: Any, served: Any) -> None:
    """The answer that was put off comes with the crash, not with its deadline; renewing says the same."""
    one = await served(kit.pool())
    lease = await one.post("p/leases", 201)
    where = f"/v1/pools/p/leases/{lease['id']}"
    waiting = asyncio.ensure_future(one.get(where, wait_ms=20_000))
    while not one.api._news._waiting:
        await asyncio.sleep(0.001)
    async with asyncio.timeout(5):
        await kit.misbehave(lease["url"], crash_after_s=0.0)
        over = await waiting
    assert over["state"] == "revoked"
    assert over["reason"] == "it ended by itself"
    renewed = await one.client.patch(where)
    assert (renewed.status_code, renewed.json()["error"]["code"]) == (409, "lease_revoked")
    assert renewed.json()["error"]["lease"] == over


async def test_leases_are_refused_with_the_reason(kit: Any, served: Any) -> None:
    """Full, draining, not ready, unknown: what presses on those who place work is a word."""
    one = await served(kit.pool(slots_per_engine=1), kit.pool(id="later", preload=False))
    lease = await one.post("p/leases", 201)
    assert (await one.post("p/leases", 409))["error"]["code"] == "full"
    assert (await one.post("later/leases", 409))["error"]["code"] == "not_ready"
    assert (await one.post("nothing/leases", 404))["error"]["code"] == "unknown_pool"
    operation = await one.post("p/drain", 202, deadline_ms=20_000)
    assert (await one.post("p/leases", 409))["error"]["code"] == "draining"
    await one.client.delete(f"/v1/pools/p/leases/{lease['id']}")
    assert (await one.until_over(operation))["detail"] == "drained"
    page = (await one.client.get("/metrics")).text
    refused = {
        (sample.labels["pool_id"], sample.labels["reason"]): sample.value
        for sample in read_metrics(page)
        if sample.name == "ftharness_pool_lease_refusals_total"
    }
    assert refused == {("p", "full"): 1, ("later", "not_ready"): 1, ("", "unknown"): 1, ("p", "draining"): 1}


async def test_a_drain_is_followed_to_its_deadline(kit: Any, served: Any) -> None:
    """202 with where to look; 409 with what is under way; at the deadline leases are revoked, or the drain is given up."""
    one = await served(kit.pool())
    lease = await one.post("p/leases", 201)
    answer = await one.client.post("/v1/pools/p/drain", json={"deadline_ms": 100, "on_timeout": "abort"})
    assert answer.status_code == 202
    operation = answer.json()
    assert answer.headers["location"] == f"/v1/operations/{operation['id']}"
    assert (operation["kind"], operation["state"]) == ("drain", "running")
    busy = await one.post("p/reload", 409, new_model_ref="m")
    assert (busy["error"]["code"], busy["error"]["operation"]) == ("busy", operation["id"])
    over = await one.until_over(operation)
    assert (over["state"], over["detail"]) == ("failed", "aborted")
    assert "takes leases again" in over["error"]
    assert not (await one.get("/v1/pools/p/health"))["draining"]
    over = await one.until_over(await one.post("p/drain", 202, deadline_ms=0))
    assert (over["state"], over["detail"]) == ("succeeded", "stopped")
    assert (await one.get(f"/v1/pools/p/leases/{lease['id']}"))["state"] == "revoked"
    assert (await one.get("/v1/pools/p/health"))["draining"]
    over = await one.until_over(await one.post("p/resume", 202))
    assert over["state"] == "succeeded"
    assert (await one.get("/v1/pools/p/health"))["ready"]
    assert (await one.get("/v1/operations/op-99", 404))["error"]["operation"] == "op-99"


async def test_a_reload_says_what_is_served_and_what_went_wrong(kit: Any, served: Any) -> None:
    """The new model's id when it serves; when its engine fails, the error, and the old one serves again, where one did."""
    one = await served(kit.pool(model=kit.model("old"), warmup=WarmupConfig(requests=0)))
    over = await one.until_over(await one.post("p/reload", 202, new_model_ref=kit.model("new")))
    assert (over["state"], over["detail"]) == ("succeeded", "succeeded")
    assert (await one.get("/v1/pools/p/health"))["model_id"] == "new"
    bad = kit.model("bad", exit_at_start=3)
    over = await one.until_over(await one.post("p/reload", 202, new_model_ref=bad))
    assert (over["state"], over["detail"]) == ("failed", "rolled_back")
    health = await one.get("/v1/pools/p/health")
    assert (health["model_id"], health["ready"]) == ("new", True)
    assert "bad" in health["last_error"]
    await one.until_over(await one.post("p/drain", 202))
    over = await one.until_over(await one.post("p/reload", 202, new_model_ref=bad))  # there is no old one to come back
    assert (over["state"], over["detail"]) == ("failed", "failed")
    health = await one.get("/v1/pools/p/health")
    assert (health["draining"], health["last_error"]) == (True, over["error"])
    assert [line["outcome"] for line in one.told.all("reload_ended")] == ["succeeded", "rolled_back", "failed"]


@pytest.mark.parametrize(
    "body, headers, status, code",
    [
        (b'{"deadline_ms": -1}', {}, 422, "invalid"),
        (b'{"deadline_ms": 1e300}', {}, 422, "invalid"),
        (b'{"deadlinems": 1}', {}, 422, "invalid"),
        (b'{"on_timeout": "wait"}', {}, 422, "invalid"),
        (b"[]", {}, 422, "invalid"),
        (b"{", {}, 400, "not_json"),
        (b'{"on_timeout": "\xff"}', {}, 400, "not_json"),
        (b" " * 70_000, {}, 413, "too_long"),
        (b"{}", {"content-type": "text/plain"}, 415, "not_json"),
    ],
)
async def test_a_body_that_cannot_be_meant_changes_nothing(
    kit: Any, served: Any, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """And is told, with the place."""
    one = await served(kit.pool(preload=False), wait=False)
    headers = {"content-type": "application/json"} | headers
    answer = await one.client.post("/v1/pools/p/drain", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert not (await one.get("/v1/pools/p/health"))["draining"]


async def test_what_is_not_there_is_told(kit: Any, served: Any) -> None:
    """Paths, methods with all that there are, and waits that are too long; each as JSON with a code."""
    one = await served(kit.pool(preload=False), wait=False)
    assert (await one.get("/v2", 404))["error"]["code"] == "not_found"
    answer = await one.client.put("/v1/pools/p/leases/x")
    assert answer.status_code == 405
    assert {*answer.headers["allow"].split(", ")} == {"GET", "HEAD", "PATCH", "DELETE"}
    for wait in ("-1", "60001", "1e3", "x", "9" * 5000):
        assert (await one.get("/v1/operations/op-1", 422, wait_ms=wait))["error"]["code"] == "invalid"


async def test_a_calls_id_is_in_every_line_that_it_caused(kit: Any, served: Any) -> None:
    """Also in those of an operation that goes on when the call was answered."""
    one = await served(kit.pool(), level="debug")
    headers = {"x-correlation-id": "call-1"}
    answer = await one.client.post("/v1/pools/p/leases", json={"holder": "me"}, headers=headers)
    assert answer.headers["x-correlation-id"] == "call-1"
    (granted,) = one.lines("lease_granted")[:1]
    assert (granted["correlation_id"], granted["holder"], granted["pool_id"]) == ("call-1", "me", "p")
    request = one.lines("request")[-1]
    assert (request["correlation_id"], request["status"], request["path"]) == ("call-1", 201, "/v1/pools/p/leases")
    soon = await one.client.post("/v1/pools/p/leases", json={"ttl_ms": 50}, headers=headers)
    assert (await one.get(soon.headers["location"], wait_ms=20_000))["state"] == "expired"
    (expired,) = one.lines("lease_expired")
    assert expired["correlation_id"] is None  # time did that
    operation = await one.client.post("/v1/pools/p/drain", json={"deadline_ms": 0}, headers=headers)
    await one.until_over(operation.json())
    (revoked,) = one.lines("lease_revoked")
    assert revoked["correlation_id"] == "call-1"


async def test_a_lease_that_cannot_be_kept_is_refused_by_name(kit: Any, served: Any, tmp_path: Path) -> None:
    """Also its renewal, which a command's holder tries again: a full disk may be emptied before the lease's time is over."""
    one = await served(kit.pool())
    lease = await one.post("p/leases", 201, ttl_ms=2000)
    with pytest.raises(NotKept):
        one.manager.registry.keep(LeaseFile(tmp_path / "gone" / "leases"))  # as a disk that takes nothing more
    refused = (await one.post("p/leases", 409))["error"]
    assert (refused["code"], refused["pool_id"]) == ("not_kept", "p")
    health = (await one.client.get("/v1/pools/p/health")).json()
    assert health["last_error"] == refused["message"]  # who places work sees more than free slots
    answer = await one.client.patch(f"/v1/pools/p/leases/{lease['id']}", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_kept")
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        (tmp_path / "gone").mkdir()

    async with Calls(one.url) as calls:
        assert await hold(calls, lease, ["sleep", "2.5"], hear) == 0, "it was renewed after all"
    assert len(said) == 1
    assert "gone/leases: No such file or directory; trying again until the lease's time is over" in said[0]
    assert one.lines("lease_refused")[-1]["reason"] == "not_kept"


async def test_a_later_crash_has_no_calls_id(kit: Any, served: Any) -> None:
    """The call had the engine started, and was answered; that it dies afterwards is not its doing."""
    one = await served(kit.pool(preload=False), wait=False)
    headers = {"x-correlation-id": "call-3"}
    operation = await one.client.post("/v1/pools/p/preload", headers=headers)
    await one.until_over(operation.json())
    await one.post("p/leases", 201)
    os.kill(one.told.all("engine_started")[0]["pid"], signal.SIGKILL)
    await one.told.until("engine_lost")
    assert [line["correlation_id"] for line in one.lines("lease_revoked")] == [None]


async def test_a_mistake_of_our_own_costs_one_call(kit: Any, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 without its text, which is in the log under the call's id; the next call is answered."""
    one = await served(kit.pool(preload=False), wait=False)
    with monkeypatch.context() as patch:
        patch.setattr(one.manager.registry, "pool_health", lambda pool_id: {}[pool_id])
        answer = await one.client.get("/v1/pools/p/health", headers={"x-correlation-id": "call-2"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "mistake")
    (failed,) = one.lines("request_failed")
    assert (failed["correlation_id"], failed["reason"]) == ("call-2", "KeyError: 'p'")
    await one.get("/v1/pools/p/health")


async def test_a_caller_that_leaves_in_mid_request_is_no_mistake_of_ours(kit: Any, served: Any) -> None:
    """Half of its body came: nothing was asked, nothing is done, and no error is logged."""
    one = await served(kit.pool(preload=False), level="debug", wait=False)
    _, writer = await asyncio.open_connection(*one.url.removeprefix("http://").split(":"))
    writer.write(b"POST /v1/pools/p/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{")
    await writer.drain()
    writer.close()
    await one.told.holds(lambda: bool(one.lines("request")), "it was answered, to nobody")
    assert [line["status"] for line in one.lines("request")] == [400]
    assert one.lines("request_failed") == []
    assert not (await one.get("/v1/pools/p/health"))["draining"]


async def test_no_answer_holds_a_secret(kit: Any, served: Any) -> None:
    """Of what engines said with their last words; beside it, it is as they said it."""
    one = await served(kit.pool(preload=False), wait=False)
    one.manager.registry.error("p", f"refused the key {HIDDEN} of Alice")
    health = await one.get("/v1/pools/p/health")
    assert health["last_error"] == "refused the key *** of Alice"


async def test_calls_are_counted_by_name_not_by_path(kit: Any, served: Any) -> None:
    """Whoever asks for what is not there makes one series, however many paths they make up."""
    one = await served(kit.pool(preload=False), wait=False)
    for n in range(5):
        await one.client.get(f"/made/up/{n}")
        await one.client.get(f"/v1/pools/made-up-{n}/health")
    page = (await one.client.get("/metrics")).text
    calls = {
        (sample.labels["call"], sample.labels["status"]): sample.value
        for sample in read_metrics(page)
        if sample.name == "ftharness_pool_http_requests_total"
    }
    assert calls == {("other", "404"): 5, ("pool_health", "404"): 5}
    assert "made-up" not in page


async def test_the_api_is_what_its_openapi_document_says(kit: Any, served: Any) -> None:
    """Schemathesis, with all its checks, on a manager with a token and an engine: bodies that fit and bodies that do not."""
    # Leases that end soon: answers that are put off until their end are not put off for a minute.
    soon = {"stop_grace_s": 0.5, "drain_deadline_s": 0.1, "lease_ttl_s": 0.2, "lease_ttl_max_s": 0.2}
    one = await served(kit.pool(warmup=WarmupConfig(requests=0), **soon), token=TOKEN)
    seed, examples = os.environ.get("FTHARNESS_SCHEMATHESIS", "1:4").split(":")
    argv = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{one.url}/openapi.json"),
        *("-H", f"Authorization: Bearer {TOKEN}", "--checks", "all", "--phases", "examples,coverage,fuzzing"),
        *("--seed", seed, "--max-examples", examples, "--no-color", "--continue-on-failure"),
    ]
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=kit.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert f"{len(ENDPOINTS) - 1} selected" in out.decode()  # all but the text that is Prometheus's
    assert one.lines("request_failed") == []
