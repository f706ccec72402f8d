"""The settings that both sides share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Sizes, optimizer and augmentation of both sides.

    Attributes:
        images: Number of built-in scenes to train on; the probes are fitted on their objects.
        test_images: Number of other scenes, on whose objects the probes are tested.
        side: Longer side of a scene, pixels.
        size: Side of a view and of a probed crop, pixels.
        batch: Images per step.
        steps: Optimizer steps.
        points: Steps after which both sides are measured.
        lr: Peak learning rate of AdamW.
        warmup: Steps of the linear warm-up, from `warmup_start` of the peak.
        warmup_start: torch's LinearLR does not start at 0.
        weight_decay: Of all parameters but biases and those of batch norm.
        momentum: Target momentum at the first step; a cosine leads it to 1.
        hidden: Width of the projector's and the predictor's hidden layer.
        out: Width of both outputs.
        last_norm: Put a batch norm without scale and shift after the projector. lightly's head has none.
        scale: Range of a crop's area as a share of the image's.
        jitter: Brightness, contrast, saturation and hue of the colour jitter.
        jitter_probability: Probability of the colour jitter.
        grayscale: Probability of greyscale.
        flip: Probability of a horizontal flip.
        solarize: Probability of solarizing the second view.
    """

    images: int = 1000
    test_images: int = 1000
    side: int = 224
    size: int = 32
    batch: int = 64
    steps: int = 1000
    points: tuple[int, ...] = (0, 100, 200, 400, 600, 800, 1000)
    lr: float = 4e-3
    warmup: int = 45
    warmup_start: float = 0.001
    weight_decay: float = 0.05
    momentum: float = 0.97
    hidden: int = 512
    out: int = 128
    last_norm: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.8, 0.2)
    jitter_probability: float = 0.8
    grayscale: float = 0.2
    flip: float = 0.5
    solarize: float = 0.2
