"""The cascade state of a sequence whose importance is in an accelerator's memory until somebody asks for it."""

from __future__ import annotations

from spatten.golden import IntArray
from spatten.golden.cascade import Context
from spatten.host.driver.errors import DeviceError
from spatten.host.driver.readings import Reading
from spatten.spec.config import Config

__all__ = ["SavedContext"]


class SavedContext(Context):
    """A context whose kept tokens and heads are here, and whose importance is read when it is first asked for.

    A new one is that of a sequence that begins.
    """

    def __init__(self, config: Config) -> None:
        self._own: dict[str, IntArray] = {}
        """The importance, as far as it has been read or set."""
        self._reading: Reading[Context] | None = None
        super().__init__(config)

    @classmethod
    def of(cls, kept: Context, importance: Reading[Context]) -> SavedContext:
        """The state of which `kept` has what is kept and `importance` reads the importance."""
        context = cls(kept.config)
        context._own.clear()
        context._reading = importance
        context.kept_tokens = kept.kept_tokens
        context.kept_heads = kept.kept_heads
        return context

    def let_go(self) -> None:
        """Forget the reading, for the next job: importance that was not asked for before is lost for this context."""
        self._reading = None

    def _importance(self, name: str) -> IntArray:
        if name not in self._own:
            if self._reading is None:
                raise DeviceError(f"{name} of this state was not asked for before the next job of its sequence")
            self._own[name] = getattr(self._reading.value, name).copy()
        return self._own[name]

    @property
    def token_importance(self) -> IntArray:
        """[tokens_max]"""
        return self._importance("token_importance")

    @token_importance.setter
    def token_importance(self, value: IntArray) -> None:
        self._own["token_importance"] = value

    @property
    def head_importance(self) -> IntArray:
        """[heads_max]"""
        return self._importance("head_importance")

    @head_importance.setter
    def head_importance(self, value: IntArray) -> None:
        self._own["head_importance"] = value

    def age(self, shift: int) -> None:
        if shift:  # otherwise nothing changes, and nothing needs to be read
            super().age(shift)
