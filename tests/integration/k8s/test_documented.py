"""What docs/kubernetes.md says: its stack's file is one, and its role is what a run needs, no more and no less."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import yaml
from cluster import Cluster
from typer.testing import CliRunner

from ftharness.cli import app
from ftharness.k8s.deployment import Deployment

PAGE = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_file_that_is_shown_is_a_stacks() -> None:
    """And every key that there is stands on the page."""
    msgspec.convert(tomllib.loads(block("toml")), Deployment)
    missing = [name for name in Deployment.__struct_fields__ if name not in PAGE]
    assert missing == []


def verb_and_resource(method: str, path: str, *, watched: bool) -> set[tuple[str, str]]:
    """As the API server asks its roles: ``("get", "pods/log")``."""
    _, _, below = path.partition("/namespaces/ftharness/")
    plural, *rest = below.split("/")
    resource = "/".join([plural, *rest[1:]])
    if method != "GET":
        return {({"POST": "create", "DELETE": "delete"}[method], resource)}
    if rest:
        return {("get", resource)}
    return {("list", resource), ("watch", resource)} if watched else {("list", resource)}


def test_the_role_that_is_shown_is_what_a_run_needs(
    cluster: Cluster, stack_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Every call of a run with a kill is in it; and it grants no right to change anything that no call asked for."""
    run = ["run", "migration/worker_failure", "--stack", str(stack_file()), "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(app, run).exit_code == 0
    role = yaml.safe_load(block("yaml"))
    granted = {(verb, name) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    asked: set[tuple[str, str]] = set()
    for method, path in cluster.calls:
        asked |= verb_and_resource(method, path, watched=path.endswith("/pods"))
    assert asked <= granted
    changes = {one for one in granted if one[0] not in ("get", "list", "watch")}
    by_websocket = {("create", "pods/exec"), ("create", "pods/portforward")}  # newer API servers call it so
    by_fault = {("delete", "pods")}  # delete_pod
    assert changes == {one for one in asked if one[0] not in ("get", "list", "watch")} | by_websocket | by_fault
