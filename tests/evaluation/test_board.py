"""TensorBoard shows held-out metrics, pictures and settings of a run beside the curves of its training."""

from PIL import Image

from lib.core.run import existing
from lib.evaluation import board
from tests.evaluation.test_report import make_run


def test_held_out_metrics_pictures_and_settings_are_there_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path)
    (run.folder / "figures").mkdir()
    Image.new("RGBA", (20, 10)).save(run.folder / "figures" / "depth_1.png")
    for _ in range(2):  # made anew, not added to
        folder = board.write(run, existing(run.scores), existing(run.record))
    shown = EventAccumulator(str(folder)).Reload()
    [adapted] = shown.Scalars("held_out/abs_rel/adapted")
    assert (adapted.step, round(adapted.value, 4)) == (60, 0.15)
    assert "held_out/inliers/trivial" not in shown.Tags()["scalars"]  # there is none
    [picture] = shown.Images("depth_1")
    assert (picture.width, picture.height) == (20, 10)
    [settings] = shown.Tensors("settings/text_summary")
    assert b"| lora.rank | 16 |" in settings.tensor_proto.string_val[0]
