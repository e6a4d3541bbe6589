"""The streets and settings of tests/scenes, for this folder too."""

from tests.scenes.conftest import rendered, settings, streets

__all__ = ["rendered", "settings", "streets"]
