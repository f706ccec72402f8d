"""The recipe's table of the target network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)


class TargetTable(BaseModel):
    """The target network: an exponential moving average of the online one. Built when an objective reads it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    momentum: float = Field(default=0.99, ge=0, le=1, description="Target momentum at the first step")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine",
        description="How momentum goes to momentum_end over the steps; constant: it stays",
    )
    momentum_end: float = Field(
        default=1.0, ge=0, le=1, description="Approached at the last step; not with a constant schedule"
    )

    @field_validator("momentum_end")
    @classmethod
    def _has_an_end(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("schedule") == "constant":
            raise ValueError(
                'schedule = "constant" keeps momentum throughout; leave momentum_end out, '
                'or write schedule = "cosine" or "linear"'
            )
        return value

    @model_validator(mode="after")
    def _constant(self) -> TargetTable:
        if self.schedule == "constant":
            self.momentum_end = self.momentum
        return self

    @model_serializer(mode="wrap")
    def _without_an_end(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave momentum_end out of a resolved recipe with a constant schedule, which refuses it."""
        values: dict[str, Any] = write(self)
        if self.schedule == "constant":
            values.pop("momentum_end", None)
        return values
