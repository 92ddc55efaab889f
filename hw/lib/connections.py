"""Joins structs and streams member by member, where their layouts differ in order, in names or in what they carry; and
leaves out of a signature or a layout what a machine lacks."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Value
from amaranth.lib import data, wiring

__all__ = ["by_member", "optional", "pass_on"]


def by_member(target: Any, source: Any = None, **others: Any) -> list[Any]:
    """Statements that set every member of the struct or interface `target`.

    A member takes its value from `others`, if that has its name, else from the member of that name in `source`. A
    struct takes one of another layout member by member, where that has all members and maybe more; else a struct or an
    array takes a value of as many bits. A number is extended or cut as in an assignment.

    Raises LookupError if `others` has a name that no member has, or a member has no value, and TypeError if a struct or
    an array would take a value of another width.
    """
    names = _names(target)
    if unknown := set(others) - set(names):
        raise LookupError(f"there is no member {', '.join(sorted(unknown))} among {', '.join(names)}")
    there = _names(source) if source is not None else []
    statements = []
    for name in names:
        if name not in others and name not in there:
            raise LookupError(f"member {name} has no value; there are {', '.join([*others, *there])}")
        member, value = _member(target, name), others[name] if name in others else _member(source, name)
        if _is_struct(member) and _is_struct(value) and member.shape() != value.shape():
            statements += by_member(member, value)
            continue
        place, value = Value.cast(member), Value.cast(value)
        if isinstance(member, data.View) and len(place) != len(value):
            raise TypeError(f"member {name} must have {len(place)} bits, not {len(value)}")
        statements.append(place.eq(value))
    return statements


def optional(is_there: bool, **members: Any) -> dict[str, Any]:
    """Members of a signature or a layout that it has only if `is_there`: `{..., **optional(has_it, o_it=Out(1))}`."""
    return members if is_there else {}


def pass_on(m: Module, source: Any, target: Any, **others: Any) -> None:
    """Join a stream to another one whose payload has other members, as `by_member` says, or is a number of another
    width, which is extended or cut."""
    payload = target.payload
    m.d.comb += [target.valid.eq(source.valid), source.ready.eq(target.ready)]
    m.d.comb += by_member(payload, source.payload, **others) if _is_struct(payload) else payload.eq(source.payload)


def _is_struct(value: Any) -> bool:
    return isinstance(value, data.View) and isinstance(value.shape(), data.StructLayout)


def _names(bundle: Any) -> list[str]:
    """The members of a struct or an interface."""
    if isinstance(bundle, data.View):
        layout = bundle.shape()
        if not isinstance(layout, data.StructLayout):
            raise TypeError(f"must be a struct, not {layout!r}")
        return [str(name) for name in layout.members]
    if isinstance(bundle, wiring.PureInterface | wiring.FlippedInterface):
        return list(bundle.signature.members)
    raise TypeError(f"must be a struct or an interface, not {bundle!r}")


def _member(bundle: Any, name: str) -> Any:
    return bundle[name] if isinstance(bundle, data.View) else getattr(bundle, name)
