"""Model clients behind one small protocol."""

from routerlib.models.anthropic_messages import AnthropicModel
from routerlib.models.local_server import LocalServer
from routerlib.models.openai_compatible import OpenAICompatibleModel
from routerlib.models.openai_responses import OpenAIResponsesModel
from routerlib.models.protocol import Model
from routerlib.models.replay import ReplayModel
from routerlib.models.scripted import ScriptedModel
from routerlib.models.transport import Backoff

__all__ = [
    "AnthropicModel",
    "Backoff",
    "LocalServer",
    "Model",
    "OpenAICompatibleModel",
    "OpenAIResponsesModel",
    "ReplayModel",
    "ScriptedModel",
]
