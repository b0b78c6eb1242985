"""TF_CONFIG as users write it: who is who, and one clear line where it is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.training.cluster import Cluster

TWO = ["10.0.0.1:1234", "10.0.0.2:1234"]


def environment(cluster: Any, task: Any) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})}


def test_the_first_worker_is_the_chief_where_there_is_none() -> None:
    first = Cluster.of_environment(environment({"worker": TWO}, {"type": "worker", "index": 0}))
    assert first == Cluster(tuple(TWO), 0)
    assert first.is_chief
    second = Cluster.of_environment(environment({"worker": TWO}, {"type": "worker", "index": 1}))
    assert second.index == 1
    assert not second.is_chief


def test_a_chief_comes_before_the_workers() -> None:
    cluster = {"chief": ["10.0.0.9:1234"], "worker": TWO}
    chief = Cluster.of_environment(environment(cluster, {"type": "chief", "index": 0}))
    assert chief == Cluster(("10.0.0.9:1234", *TWO), 0)
    worker = Cluster.of_environment(environment(cluster, {"type": "worker", "index": "0"}))
    assert worker.index == 1


FIRST = {"type": "worker", "index": 0}
WRONG = {
    "absent": ({}, r'trainer\.strategy = "multi_worker" needs TF_CONFIG in the environment'),
    "empty": ({"TF_CONFIG": ""}, r"needs TF_CONFIG"),
    "no JSON": ({"TF_CONFIG": "{worker"}, r"TF_CONFIG: Invalid JSON.*expected such as"),
    "no task": ({"TF_CONFIG": '{"cluster": {}}'}, r"TF_CONFIG: task: Field required"),
    "a parameter server": (
        environment({"worker": TWO, "ps": ["10.0.0.3:1"]}, FIRST),
        r"TF_CONFIG: cluster\.ps: Extra inputs are not permitted",
    ),
    "an address without a port": (
        environment({"worker": ["10.0.0.1", TWO[1]]}, FIRST),
        r"TF_CONFIG: cluster\.worker\.0: String should match pattern",
    ),
    "a task that is not there": (
        environment({"worker": TWO}, {"type": "worker", "index": 2}),
        r"TF_CONFIG: task\.index: expected less than the 2 addresses.*received 2",
    ),
    "an evaluator": (
        environment({"worker": TWO}, {"type": "evaluator", "index": 0}),
        r"TF_CONFIG: task\.type: Input should be 'chief' or 'worker'",
    ),
    "a single process": (
        environment({"worker": TWO[:1]}, FIRST),
        r"TF_CONFIG: cluster: expected at least two addresses",
    ),
    "an address twice": (
        environment({"worker": [TWO[0], TWO[0]]}, FIRST),
        r"TF_CONFIG: cluster: expected at least two addresses, each once",
    ),
}


@pytest.mark.parametrize(("variables", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Cluster.of_environment(variables)
    assert len(str(caught.value).splitlines()) == 1
