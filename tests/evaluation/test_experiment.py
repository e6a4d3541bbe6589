"""record.md says what was tried and what came out, and keeps what the user wrote."""

from lib.evaluation import experiment, report
from tests.evaluation.test_report import make_run


def test_the_record_has_name_date_configuration_results_and_cost(tmp_path):
    run = make_run(tmp_path, **{"lora.rank": 8})
    report.write(run.folder)
    text = experiment.path_of(run).read_text()
    for part in (
        "# vggt_eth3d-strategy_b-demo",
        "2026-11-28 09:00 UTC",
        "- `lora.rank` = 8",
        "## Results",
        "better than",
    ):
        assert part in text
    assert "| Relative error | 0.2000 | 0.1500 | 0.5000 | −0.0500 | −0.0700 to −0.0300 |" in text
    assert "60 optimiser steps" in text and experiment.observations(run) == ""


def test_what_the_user_saw_outlives_a_new_report(tmp_path):
    run = make_run(tmp_path)
    report.write(run.folder)
    path = experiment.path_of(run)
    path.write_text(path.read_text().replace(experiment.EMPTY, "Glass is worse.\n\nTry rank 32."))
    report.write(run.folder)
    assert experiment.observations(run) == "Glass is worse.\n\nTry rank 32."
