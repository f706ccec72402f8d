"""UniVIP (CVPR 2022): its three objectives and its sampler of overlapping scenes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Objective, ViewSampler


@hookimpl
def sslkit_objectives() -> "Sequence[type[Objective]]":
    """Return scene-scene, scene-instance and instance-instance."""
    from sslkit_univip.instances import InstanceInstance
    from sslkit_univip.scenes import SceneInstance, SceneScene

    return [SceneScene, SceneInstance, InstanceInstance]


@hookimpl
def sslkit_samplers() -> "Sequence[type[ViewSampler]]":
    """Return the sampler of two scenes whose overlap holds instances."""
    from sslkit_univip.overlapping_scenes import OverlappingScenes

    return [OverlappingScenes]
