"""Users keep the names of their folders in figures."""

import numpy as np
import pytest

from lib.core.records import Row
from lib.recipes.vavae_microdoppler import names
from lib.recipes.vavae_microdoppler.autoencoder import figures as of_autoencoder
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import figures as of_dit

USERS = ("ID_1", "it speaker", "王小明")


def rows() -> list[Row]:
    made, rng = [], np.random.default_rng(0)
    for i in range(9):
        vectors = {f"{name}_{k:02}": float(v) for name in ("decoded", "fake", "latent", "square") for k, v in
                   enumerate(rng.random(4))}  # fmt: skip
        pictures = {name: rng.random((3, 8, 8)) for name in ("image", "reconstructed", "generated", "recon")}
        numbers = vectors | {"label": float(i % 3), "hit": 1.0, "psnr": 20.0}
        made.append(Row(f"{USERS[i % 3]}/{i}", "g", numbers, pictures, {"user": USERS[i % 3]}))
    return made


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """All that figures say when they are saved."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    said: list[str] = []

    def saved(figure, path, **_):
        figure.canvas.draw()
        said.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr(Figure, "savefig", saved)
    return said


def test_figures_name_users_as_their_folders_are_called(tmp_path, texts):
    of_dit.by_user(rows(), tmp_path / "a.png")
    assert [text for text in texts if text.startswith(("ID", "it", names.drawable("王")))] == [
        "ID_1", "it speaker", names.drawable("王小明")]  # fmt: skip
    texts.clear()
    of_dit.plane(rows(), tmp_path / "b.png")
    assert {"ID_1", "it speaker", names.drawable("王小明")} <= set(texts)
    texts.clear()
    of_autoencoder.latents(rows(), tmp_path / "c.png")
    assert {"ID_1", "it speaker"} <= set(texts) and not any("user 0" in text for text in texts)


def test_a_name_that_no_font_here_can_draw_is_spelt_out(monkeypatch):
    monkeypatch.setattr(names, "fonts", lambda: [names.USUAL])
    assert names.drawable("王 a") == r"\u738b a" and names.drawable("Zoë $5") == r"Zoë \$5"


def test_axes_are_drawn_where_they_are_known(tmp_path, texts):
    config = Config()
    config.data.kind = "iq"
    of_autoencoder.reconstructions(config, rows(), rows(), tmp_path / "a.png")
    assert {"time (s)", "velocity (m/s)"} <= set(texts)
    drawn = [text for text in texts if "/" in text and text[-1].isdigit()]
    assert [text.rpartition("/")[0] for text in drawn] == [names.drawable(user) for user in USERS for _ in range(3)]
    texts.clear()
    of_autoencoder.reconstructions(Config(), rows(), rows(), tmp_path / "a.png")
    assert "time (s)" not in texts
