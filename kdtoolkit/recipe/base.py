"""What all sections of a recipe share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=())


class OpenSection(BaseModel):
    """A mapping whose further keys are a plug-in's constructor arguments, checked against its signature."""

    model_config = ConfigDict(extra="allow", validate_default=True, allow_inf_nan=False, protected_namespaces=())

    @property
    def options(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.model_extra or {})
