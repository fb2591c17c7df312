from results.schema import REGISTRY, SYSCALL_OPERATIONS, canonical, metrics_of


def test_canonical_json_is_equal_for_equal_parameters():
    assert canonical({"b": 1, "a": [1, 2]}) == canonical({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'


def test_the_metrics_of_the_design_are_there_with_their_units():
    assert [metric.name for metric in metrics_of("startup")] == ["ready", "exit", "gone", "cpu", "tool"]
    assert [metric.name for metric in metrics_of("memory")] == ["cgroup", "pss", "available", "residual"]
    assert tuple(metric.name for metric in metrics_of("syscalls")) == SYSCALL_OPERATIONS
    assert {metric.unit for metric in metrics_of("storage")} == {"bytes/s"}
    assert len(metrics_of("storage")) == 8


def test_every_metric_has_a_margin_and_a_meaning():
    assert all(0 < metric.margin < 1 and metric.meaning for metric in REGISTRY.values())
