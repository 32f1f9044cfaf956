"""The manifest of a topology: what it holds, and that what does not fit the CRD is refused with the field's name."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from ftharness.cli import app
from ftharness.k8s import names
from ftharness.k8s.deployment import ENGINES, Deployment
from ftharness.k8s.manifest_text import as_yaml
from ftharness.k8s.render import INIT_MARK, render
from ftharness.k8s.schema import ManifestError, check_manifest, schema
from ftharness.stack import NotApplicable, NotAvailable, aggregated, disaggregated

FAILOVER = Deployment(failover=True)


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["k8s", "render", *arguments])
    return result.exit_code, result.stdout, result.stderr


PLAIN = Deployment()


def manifest(deployment: Deployment = PLAIN, **fields: Any) -> dict[str, Any]:
    return render(aggregated(workers=2, **fields), deployment, engine="vllm", run="r1").manifest


def test_the_schema_is_one_and_says_what_it_was_written_from() -> None:
    """It is valid JSON schema itself, and names the CRD's version and the commit."""
    jsonschema.Draft202012Validator.check_schema(schema())
    assert "v1alpha1" in schema()["$comment"]
    assert "015d780ba9c3" in schema()["$comment"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "topology", [aggregated(workers=3), disaggregated(prefill=1, decode=2, strategy="frontend_routed")]
)
def test_every_topology_and_engine_is_valid(engine: str, topology: Any) -> None:
    """Also after a turn through YAML, which is what a cluster gets."""
    found = render(topology, Deployment(), engine=engine, run="r1")
    assert yaml.safe_load(as_yaml(found.manifest)) == found.manifest
    check_manifest(yaml.safe_load(as_yaml(found.manifest)))
    replicas = {name: service["replicas"] for name, service in found.manifest["spec"]["services"].items()}
    assert sum(replicas.values()) == len(found.slots)


def test_failover_is_enabled_where_the_crd_has_it() -> None:
    """On the worker, with the GPU memory service that it needs, and discovery by container on the deployment."""
    found = manifest(FAILOVER)
    worker = found["spec"]["services"]["Worker"]
    assert (found["apiVersion"], found["kind"]) == ("nvidia.com/v1alpha1", "DynamoGraphDeployment")
    assert worker["failover"] == {"enabled": True}
    assert worker["gpuMemoryService"] == {"enabled": True}
    assert found["metadata"]["annotations"] == {"nvidia.com/dynamo-kube-discovery-mode": "container"}
    assert worker["extraPodSpec"]["mainContainer"]["args"][-2:] == ["--load-format", "gms"]
    assert "failover" not in found["spec"]["services"]["Frontend"]


def test_with_failover_each_worker_is_two_containers_of_one_pod() -> None:
    """The two that the operator makes of the main container."""
    slots = render(aggregated(workers=2), FAILOVER, engine="vllm", run="r1").slots
    assert [(slot.name, slot.replica, slot.container) for slot in slots[1:]] == [
        ("worker-1", 0, "engine-0"),
        ("standby-1", 0, "engine-1"),
        ("worker-2", 1, "engine-0"),
        ("standby-2", 1, "engine-1"),
    ]


def test_a_topology_with_standbys_is_failover() -> None:
    """One shadow for each worker, and no more: the CRD has no more."""
    found = render(aggregated(workers=1, standbys=1), Deployment(), engine="vllm", run="r1")
    assert found.manifest["spec"]["services"]["Worker"]["failover"] == {"enabled": True}
    assert [slot.name for slot in found.slots] == ["frontend", "worker-1", "standby-1"]
    with pytest.raises(NotApplicable, match="standbys = 2 does not exist on k8s"):
        render(aggregated(standbys=2), Deployment(), engine="vllm", run="r1")


def test_everything_has_the_guards_labels() -> None:
    """The deployment, what the operator makes of each service, and the pods."""
    found, wanted = manifest(), {"app.kubernetes.io/managed-by": "ftharness", "ftharness/run": "r1"}
    assert found["metadata"]["labels"] == wanted
    for service in found["spec"]["services"].values():
        assert service["labels"] == service["extraPodMetadata"]["labels"] == wanted


def test_a_secret_is_named_and_not_held() -> None:
    """Its values stay in the cluster."""
    services = manifest(Deployment(secret="hf-token"))["spec"]["services"]  # noqa: S106 - a name
    assert all(service["envFromSecret"] == "hf-token" for service in services.values())


def test_the_engine_is_not_process_1_unless_that_is_wanted() -> None:
    """Without the small first process a SIGKILL from inside the container would not be delivered."""
    for init in (True, False):
        container = manifest(Deployment(init=init))["spec"]["services"]["Worker"]["extraPodSpec"]["mainContainer"]
        assert (INIT_MARK in container["command"]) is init
        assert container["command"][-3:] == ["python3", "-m", "dynamo.vllm"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """A valid manifest with failover, with one field changed; None removes it."""
    found = copy.deepcopy(manifest(Deployment(failover=True, gpus=2)))
    *steps, last = path.split("/")
    at = found
    for step in steps:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return found


WORKER = "spec/services/Worker"


@pytest.mark.parametrize(
    "path,value,said",
    [
        ("apiVersion", "nvidia.com/v1beta1", "apiVersion: 'nvidia.com/v1alpha1' was expected"),
        ("metadata/namespace", "Prod", "metadata.namespace: 'Prod' does not match"),
        ("metadata/labels", None, "metadata: 'labels' is a required property"),
        ("spec/service", {}, r"spec.service: there is no such field; did you mean services\?"),
        (f"{WORKER}/failovr", {}, r"spec.services.Worker.failovr: there is no such field; did you mean failover\?"),
        (f"{WORKER}/replicas", -1, "spec.services.Worker.replicas: -1 is less than the minimum of 0"),
        (f"{WORKER}/resources/limits/gpu", 2, "spec.services.Worker.resources.limits.gpu: 2 is not of type 'string'"),
        (f"{WORKER}/failover/mode", "interpod", "spec.services.Worker.failover.mode: 'interpod' is not one of"),
        (f"{WORKER}/failover/mode", "interPod", "failover.mode: is not that of gpuMemoryService.mode"),
        (f"{WORKER}/failover/numShadows", 2, "failover.numShadows: 2 is greater than the maximum of 1"),
        (f"{WORKER}/gpuMemoryService", None, "failover.enabled: needs spec.services.Worker.gpuMemoryService.enabled"),
        (f"{WORKER}/resources", None, "asks for none"),
        (
            "metadata/annotations",
            None,
            'needs metadata.annotations."nvidia.com/dynamo-kube-discovery-mode". = "container"',
        ),
        ("spec/backendFramework", "trtllm", "failover.enabled: exists for vllm only, not for trtllm"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fields_name(path: str, value: Any, said: str) -> None:
    """By the CRD's types, and by what its webhook refuses beside them."""
    with pytest.raises(ManifestError, match=said):
        check_manifest(changed(path, value))


def test_a_strategy_that_dynamo_has_not_is_not_applicable() -> None:
    """The released frontend routes to prefill and decode workers itself."""
    with pytest.raises(NotApplicable, match=r"decode_first \(.*\) does not exist on k8s; there is frontend_routed"):
        render(disaggregated(strategy="decode_first"), Deployment(), engine="vllm", run="r1")


def test_the_command_renders_a_scenarios_topology(tmp_path: Path) -> None:
    """On standard output, or into a file whose name it then prints."""
    status, out, _ = call(
        "migration/worker_failure", "--run", "r1", "--namespace", "tests", "--gpus", "4", "--failover"
    )
    found = yaml.safe_load(out)
    assert (status, found["metadata"]["name"], found["metadata"]["namespace"]) == (0, "ft-r1", "tests")
    assert found["spec"]["services"]["Worker"]["resources"]["limits"] == {"gpu": "4"}
    file = tmp_path / "dgd.yaml"
    status, out, _ = call("--prefill", "2", "--out", str(file))
    assert (status, out) == (0, f"{file}\n")
    assert {"PrefillWorker", "DecodeWorker"} < {*yaml.safe_load(file.read_text())["spec"]["services"]}


def test_no_failover_takes_a_scenarios_shadows_away() -> None:
    """An option comes before what the scenario says, as for every other."""
    status, out, _ = call("failover/frozen", "--no-failover")
    found = yaml.safe_load(out)
    assert status == 0
    assert "failover" not in found["spec"]["services"]["Worker"]
    assert "annotations" not in found["metadata"]
    assert "failover" in yaml.safe_load(call("failover/frozen")[1])["spec"]["services"]["Worker"]


def test_the_help_says_number_and_not_a_type() -> None:
    """What a reader is to write."""
    status, out, _ = call("--help")
    assert (status, "range" in out) == (0, False)


def test_two_renderings_are_two_runs() -> None:
    """What one applies, another's guard refuses to touch."""
    labels = [yaml.safe_load(call()[1])["metadata"]["labels"][names.RUN] for _ in range(2)]
    assert labels[0] != labels[1]


def test_a_file_says_what_no_option_does(tmp_path: Path) -> None:
    """And an option comes before it."""
    file = tmp_path / "cluster.toml"
    file.write_text('kind = "k8s"\nnamespace = "gpu"\nmodel = "any/model"\ngpus = 8\n')
    found = yaml.safe_load(call("--config", str(file), "--model", "my/model")[1])
    worker = found["spec"]["services"]["Worker"]
    assert found["metadata"]["namespace"] == "gpu"
    assert worker["extraPodSpec"]["mainContainer"]["args"] == ["--model", "my/model", "--tensor-parallel-size", "8"]


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["migration/worker_failur"], "did you mean migration/worker_failure?"),
        (["--engine", "vlm"], "no engine 'vlm'; did you mean vllm?"),
        (["--workes", "2"], "No such option"),
        (["--workers", "2", "--prefill", "1"], "--workers do both phases; with --prefill and --decode there are none"),
        (["--workers", "65"], "workers = 65: at most 64 in all"),
        (["--failover", "--gpus", "0"], "its engines share GPUs"),
        (["--failover", "--engine", "sglang"], "exists for vllm only, not for sglang"),
        (["--namespace", "Prod"], "metadata.namespace: 'Prod' does not match"),
        (["--run", "Run_1"], "the run's name 'Run_1': it is at most 20 of a-z, 0-9 and -"),
        (["--config", "/nowhere.toml"], "/nowhere.toml: there is no such file"),
        *(([name, ""], f"{name} is empty; leave it out for its default") for name in ("--model", "--image", "--run")),
        (["--model", "  "], "--model is empty"),
        (["--gpus", "two"], "'two' is no whole number"),
        (["--gpus", "-1"], "-1: must be at least 0"),
        (["--workers", "0"], "0: must be at least 1"),
        (["--migration-limit", "99999999999999999999"], "99999999999999999999: has more than 18 digits"),
        (
            ["--migration-limit", "4294967296"],
            "migration_limit = 4294967296 does not exist on k8s: Dynamo's is at most",
        ),
        (["--out", "/nowhere/dgd.yaml"], "/nowhere/dgd.yaml: No such file or directory"),
    ],
)
def test_a_wrong_call_ends_with_2_and_says_what_is_wrong(arguments: list[str], said: str) -> None:
    """And prints no manifest."""
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert said in err


def test_a_key_that_a_file_may_not_have_is_named_with_its_line(tmp_path: Path) -> None:
    """As in every file of ours."""
    file = tmp_path / "cluster.toml"
    file.write_text('kind = "k8s"\nnamspace = "gpu"\n')
    status, _, err = call("--config", str(file))
    assert (status, err) == (2, f"ftharness: {file}:2: unknown key 'namspace'; did you mean namespace?\n")


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is no failure of anybody's: status 3."""
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    status, _, err = call()
    assert (status, "pip install 'ftharness[k8s]'" in err) == (3, True)
    with pytest.raises(NotAvailable):
        check_manifest(manifest_without_check())


def manifest_without_check() -> dict[str, Any]:
    return {"metadata": {}}


def test_the_version_is_the_images_tag() -> None:
    """A registry's port is none, and a digest says nothing of it."""
    cases = {"reg:5000/vllm": "", "reg:5000/vllm:1.5.0": "1.5.0", "vllm:1.5.0@sha256:ab": "1.5.0", "": "1.4.2"}
    assert {image: Deployment(image=image).version_of("vllm") for image in cases} == cases
    assert Deployment(image="a:latest", version="1.6.1").version_of("vllm") == "1.6.1"
    assert msgspec.structs.replace(Deployment(), image="x").image_of("sglang") == "x"
