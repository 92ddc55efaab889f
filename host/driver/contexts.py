"""Which cascade state each context of an accelerator holds."""

__all__ = ["Contexts"]


class Contexts:
    """Keeps which user's cascade state each context of an accelerator holds.

    There may be more users than contexts: the user that has not run for the longest loses its context, and must
    bring its state from memory when it runs again.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.forget()

    def forget(self) -> None:
        """Note that no context holds a state, as after a reset."""
        self._free = list(range(self._count))
        self._of: dict[object, int] = {}

    def take(self, user: object) -> tuple[int, bool]:
        """The context that `user` is to run in now, and whether that context holds the user's state."""
        context = self._of.pop(user, None)
        is_held = context is not None
        if context is None:
            context = self._free.pop(0) if self._free else self._of.pop(next(iter(self._of)))
        self._of[user] = context  # the last entry is the user that ran last
        return context, is_held

    def give_back(self, user: object) -> None:
        """Free the context of `user`, which will not run again."""
        context = self._of.pop(user, None)
        if context is not None:
            self._free.append(context)
