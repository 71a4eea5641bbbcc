"""Model clients behind one small protocol."""

from routerlib.models.local_server import LocalServer
from routerlib.models.openai_compatible import Backoff, OpenAICompatibleModel
from routerlib.models.protocol import Model
from routerlib.models.replay import ReplayModel
from routerlib.models.scripted import ScriptedModel

__all__ = [
    "Backoff",
    "LocalServer",
    "Model",
    "OpenAICompatibleModel",
    "ReplayModel",
    "ScriptedModel",
]
