from __future__ import annotations

import pytest

from harness.yaml_file import read_table
from tasks.api import TaskError


def test_a_key_that_stands_twice_is_no_settings_of_either(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("task: mmlu\nlimit: 3\nlimit: 4\n")
    with pytest.raises(TaskError, match="limit stands there twice"):
        read_table(file, "run.yaml", TaskError, "task: mmlu")
    file.write_text("task: mmlu\nfilter:\n  subject: [a]\ngrid:\n  subject: [a]\n")
    assert read_table(file, "run.yaml", TaskError, "task: mmlu")["grid"] == {"subject": ["a"]}
