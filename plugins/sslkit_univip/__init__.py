"""UniVIP (CVPR 2022): its three objectives, the Sinkhorn solver and the sampler of overlapping scenes.

`from sslkit_univip import SceneScene, sinkhorn` works as well: each name is imported when it is first used, so that
importing the package for its hooks does not import torch.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Objective, ViewSampler
    from sslkit_univip.instances import InstanceInstance
    from sslkit_univip.overlapping_scenes import OverlappingScenes
    from sslkit_univip.scenes import SceneInstance, SceneScene
    from sslkit_univip.transport import sinkhorn

__all__ = ["InstanceInstance", "OverlappingScenes", "SceneInstance", "SceneScene", "sinkhorn"]

_MODULES = {
    "InstanceInstance": "instances",
    "OverlappingScenes": "overlapping_scenes",
    "SceneInstance": "scenes",
    "SceneScene": "scenes",
    "sinkhorn": "transport",
}
"""Public name -> the module that defines it. `__dir__` is not defined, as pluggy reads every name that `dir` lists."""


def __getattr__(name: str) -> object:
    """Import a public name when it is first used.

    Raises:
        AttributeError: The package does not define `name`.
    """
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


@hookimpl
def sslkit_objectives() -> "Sequence[type[Objective]]":
    """Return scene-scene, scene-instance and instance-instance."""
    from sslkit_univip.instances import InstanceInstance
    from sslkit_univip.scenes import SceneInstance, SceneScene

    return [SceneScene, SceneInstance, InstanceInstance]


@hookimpl
def sslkit_samplers() -> "Sequence[type[ViewSampler]]":
    """Return the sampler of two overlapping scenes and the instances in their overlap."""
    from sslkit_univip.overlapping_scenes import OverlappingScenes

    return [OverlappingScenes]
