"""benchmarks.learning_curves: changes of the held-out loss, paired with each run's own start."""

import json

import numpy as np
import pytest

from benchmarks import learning_curves


def write(folder, losses):
    """A run's metrics; a step without a held-out loss between them."""
    folder.mkdir()
    lines = [{"step": step, "validation_loss": loss} for step, loss in losses.items()]
    lines.insert(1, {"step": 15, "loss": 3.0})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_each_run_is_compared_with_its_own_first_value(tmp_path):
    first = write(tmp_path / "a", {10: 0.5, 20: 0.4, 30: 0.1})
    second = write(tmp_path / "b", {10: 9.0, 20: 8.7})
    steps, found = learning_curves.changes({"full": [first, second], "no_motion": [first]})
    assert steps == [10, 20]  # what all of them have
    np.testing.assert_allclose(found["full"], [[0, -0.1], [0, -0.3]], atol=1e-9)
    _, row, _ = learning_curves.table(steps, found).splitlines()
    assert row.split() == ["full", "+0.0000", "-0.2000", "0.2000"]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    """As of a run that was killed, or that is going on."""
    folder = write(tmp_path / "a", {10: 0.5, 20: 0.4})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 30, "validation_lo')
    assert learning_curves.read(folder) == {10: 0.5, 20: 0.4}


def test_an_arm_that_is_named_again_has_more_seeds(tmp_path, monkeypatch, capsys):
    first = write(tmp_path / "a", {10: 0.5, 20: 0.4})
    second = write(tmp_path / "b", {10: 0.5, 20: 0.2})
    arguments = ["--arms", f"full={first}", "--arms", f"full={second}"]
    monkeypatch.setattr("sys.argv", ["learning_curves", *arguments])
    learning_curves.main()
    assert capsys.readouterr().out.split()[-4:] == ["full", "+0.0000", "-0.2000", "0.2000"]


def test_runs_that_cannot_be_compared_are_named(tmp_path):
    write(tmp_path / "none", {})
    with pytest.raises(ValueError, match="none/metrics.jsonl: no held-out loss"):
        learning_curves.read(tmp_path / "none")
    early, late = write(tmp_path / "a", {10: 0.5}), write(tmp_path / "b", {20: 0.5})
    with pytest.raises(ValueError, match="no step in common"):
        learning_curves.changes({"full": [early, late]})
    with pytest.raises(ValueError, match="missing/metrics.jsonl: No such file .* its --workdir"):
        learning_curves.read(tmp_path / "missing")
